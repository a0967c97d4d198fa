"""https://github.com/openai/openai-python, with its own number of retries."""

import io

import openai
from cases import cities, hello, keys, large, run, url


def client(key):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=keys[key])


anyone = client("any")


def chat(key="any", model="llama", messages=hello, **more):
    return client(key).chat.completions.create(model=model, messages=messages, **more).choices[0].message


def streamed():
    chunks = list(anyone.chat.completions.create(model="llama", messages=hello, stream=True))
    assert len(chunks) > 2 and chunks[-1].choices[0].finish_reason == "stop", chunks
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def call_of_a_tool():
    tool = {"type": "function", "function": {"name": "weather", "parameters": cities}}
    return chat(model="llama-sim", tools=[tool], tool_choice="required").tool_calls[0].function.arguments


def upload():
    wav = io.BytesIO(b"RIFF" + bytes(50_000))
    wav.name = "speech.wav"
    return anyone.audio.transcriptions.create(model="llama-sim", file=wav).text


run({
    "list": lambda: [model.id for model in anyone.models.list()],
    "one": lambda: anyone.models.retrieve("org/qwen").id,
    "chat": lambda: chat().content,
    "stream": streamed,
    "responses": lambda: anyone.responses.create(model="llama", input="Hello").output_text,
    "tools": call_of_a_tool,
    "embeddings": lambda: len(anyone.embeddings.create(model="embeddings", input=["Hello", "you"]).data),
    "upload": upload,
    "unknown_key": lambda: chat("unknown"),
    "unknown_model": lambda: chat(model="none"),
    "foreign_model": lambda: chat("llama", model="org/qwen"),
    "foreign_model_alone": lambda: client("llama").models.retrieve("org/qwen"),
    "no_model": lambda: chat(model=""),
    "too_large": lambda: chat(messages=large),
    "rate": lambda: [chat("hour").content, chat("hour")],
    "quota": lambda: [chat("day").content, chat("day")],
    "budget": lambda: chat("budget"),
    "wait": lambda: [chat("minute").content, chat("minute").content],
    "loading": lambda: chat(model="slow"),
})
