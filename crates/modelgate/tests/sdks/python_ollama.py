"""https://github.com/ollama/ollama-python."""

import ollama
from cases import hello, keys, large, run, url


def client(key):
    return ollama.Client(host=url, headers={"Authorization": f"Bearer {keys[key]}"})


anyone = client("any")


def chat(key="any", model="llama3", messages=hello, **more):
    return client(key).chat(model=model, messages=messages, **more).message


def streamed():
    return "".join(part.message.content for part in anyone.chat(model="llama3", messages=hello, stream=True))


def streamed_refusal():
    return list(client("unknown").chat(model="llama3", messages=hello, stream=True))


def loaded_by_pull():
    return anyone.pull("llama3")


run({
    "list": lambda: [model.model for model in anyone.list().models],
    "ps": lambda: [model.model for model in anyone.ps().models],
    "show": lambda: anyone.show("llama3").details.family,
    "chat": lambda: chat().content,
    "stream": streamed,
    "generate": lambda: anyone.generate(model="llama3", prompt="Hello").response,
    "embeddings": lambda: len(anyone.embed(model="llama3", input="Hello").embeddings),
    "unknown_key": lambda: chat("unknown"),
    "unknown_key_streamed": streamed_refusal,
    "unknown_model": lambda: chat(model="none"),
    "pull": loaded_by_pull,
    "too_large": lambda: chat(messages=large),
    "rate": lambda: [chat("hour").content, chat("hour")],
    "minute": lambda: [chat("minute").content, chat("minute")],
    "quota": lambda: [chat("day").content, chat("day")],
    "budget": lambda: chat("budget"),
    "loading": lambda: chat(model="slow3"),
})
