"""https://github.com/BerriAI/litellm as a library, with OpenAI's and Anthropic's APIs."""

import litellm
from cases import cities, hello, keys, large, run, url


def chat(key="any", model="llama", messages=hello, **more):
    answer = litellm.completion(
        model=f"openai/{model}", api_base=f"{url}/v1", api_key=keys[key], messages=messages, **more
    )
    return answer.choices[0].message


def message(key="any", model="llama", **more):
    answer = litellm.completion(
        model=f"anthropic/{model}", api_base=url, api_key=keys[key], messages=hello, max_tokens=100, **more
    )
    return answer.choices[0].message.content


def streamed():
    chunks = litellm.completion(
        model="hosted_vllm/llama", api_base=f"{url}/v1", api_key=keys["any"], messages=hello, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def embeddings():
    answer = litellm.embedding(model="openai/embeddings", api_base=f"{url}/v1", api_key=keys["any"], input=["Hello"])
    return len(answer.data)


def call_of_a_tool():
    tool = {"type": "function", "function": {"name": "weather", "parameters": cities}}
    return chat(model="llama-sim", tools=[tool], tool_choice="required").tool_calls[0].function.arguments


run({
    "chat": lambda: chat().content,
    "stream": streamed,
    "tools": call_of_a_tool,
    "embeddings": embeddings,
    "messages": message,
    "unknown_key": lambda: chat("unknown"),
    "unknown_key_messages": lambda: message("unknown"),
    "unknown_model": lambda: chat(model="none"),
    "too_large": lambda: chat(messages=large),
    "rate": lambda: [chat("hour").content, chat("hour")],
    "quota": lambda: [chat("day").content, chat("day")],
    "quota_messages": lambda: message("day"),
    "budget": lambda: chat("budget"),
    "budget_messages": lambda: message("budget"),
    "wait": lambda: [chat("minute").content, chat("minute").content],
    "loading": lambda: chat(model="slow"),
})
