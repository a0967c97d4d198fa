"""https://github.com/anthropics/anthropic-sdk-python, with its own number of retries."""

import anthropic
from cases import cities, hello, keys, large, run, url


def client(key):
    return anthropic.Anthropic(base_url=url, api_key=keys[key])


anyone = client("any")


def message(key="any", model="llama", messages=hello, **more):
    return client(key).messages.create(model=model, max_tokens=100, messages=messages, **more).content[0]


def streamed():
    with anyone.messages.stream(model="llama", max_tokens=100, messages=hello) as stream:
        return "".join(stream.text_stream)


def call_of_a_tool():
    tool = {"name": "weather", "input_schema": cities}
    return message(model="llama-sim", tools=[tool], tool_choice={"type": "any"}).input["city"]


def bearer():
    client = anthropic.Anthropic(base_url=url, auth_token=keys["any"])
    return client.messages.create(model="llama", max_tokens=100, messages=hello).content[0].text


run({
    "list": lambda: [model.id for model in anyone.models.list()],
    "chat": lambda: message().text,
    "bearer": bearer,
    "stream": streamed,
    "tools": call_of_a_tool,
    "count": lambda: anyone.messages.count_tokens(model="llama", messages=hello).input_tokens > 0,
    "unknown_key": lambda: message("unknown"),
    "unknown_model": lambda: message(model="none"),
    "foreign_model": lambda: message("llama", model="org/qwen"),
    "no_model": lambda: message(model=""),
    "too_large": lambda: message(messages=large),
    "rate": lambda: [message("hour").text, message("hour")],
    "quota": lambda: [message("day").text, message("day")],
    "budget": lambda: message("budget"),
    "wait": lambda: [message("minute").text, message("minute").text],
    "loading": lambda: message(model="slow"),
})
