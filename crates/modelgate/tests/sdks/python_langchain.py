"""https://docs.langchain.com/oss/python/integrations/chat/openai and …/anthropic."""

from cases import cities, hello, keys, large, run, url
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def openai(key="any", model="llama"):
    return ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=keys[key])


def anthropic(key="any", model="llama"):
    return ChatAnthropic(model=model, base_url=url, api_key=keys[key], max_tokens=100)


def embeddings():
    # Of its own accord it sends numbers of tokens, which it makes with a table from the internet.
    model = OpenAIEmbeddings(
        model="embeddings", base_url=f"{url}/v1", api_key=keys["any"], check_embedding_ctx_length=False
    )
    return len(model.embed_documents(["Hello", "you"]))


def call_of_a_tool():
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": cities}}
    return openai(model="llama-sim").bind_tools([tool], tool_choice="any").invoke("Hello").tool_calls[0]["args"]


run({
    "chat": lambda: openai().invoke(hello).content,
    "stream": lambda: "".join(chunk.content for chunk in openai().stream(hello)),
    "messages": lambda: anthropic().invoke(hello).content,
    "tools": call_of_a_tool,
    "embeddings": embeddings,
    "unknown_key": lambda: openai("unknown").invoke(hello),
    "unknown_key_messages": lambda: anthropic("unknown").invoke(hello),
    "unknown_model": lambda: openai(model="none").invoke(hello),
    "too_large": lambda: openai().invoke(large),
    "rate": lambda: [openai("hour").invoke(hello).content, openai("hour").invoke(hello)],
    "quota": lambda: [openai("day").invoke(hello).content, openai("day").invoke(hello)],
    "quota_messages": lambda: anthropic("day").invoke(hello),
    "budget": lambda: openai("budget").invoke(hello),
    "budget_messages": lambda: anthropic("budget").invoke(hello),
    "wait": lambda: [openai("minute").invoke(hello).content, openai("minute").invoke(hello).content],
    "loading": lambda: openai(model="slow").invoke(hello),
})
