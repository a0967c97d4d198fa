"""What a client does with the SDKs, and what it must see. Arguments: Traefik's URL, a key, a key for llama* only."""

import io
import sys
import time

import anthropic
import openai

url, key, llama_key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
hello = [{"role": "user", "content": "Hello"}]


def raises(exception, call):
    try:
        call()
    except exception as error:
        return error
    raise AssertionError(f"{exception} was not raised")


# OpenAI: what works.
assert [m.id for m in client.models.list()] == ["llama", "llama-hourly", "llama-limited", "org/qwen"]
assert client.models.retrieve("org/qwen").id == "org/qwen"
assert "llama" in client.chat.completions.create(model="llama", messages=hello).choices[0].message.content
chunks = list(client.chat.completions.create(model="llama", messages=hello, stream=True))
assert len(chunks) > 2 and chunks[-1].choices[0].finish_reason == "stop"
assert len(client.embeddings.create(model="llama", input="Hello").data) == 1
wav = io.BytesIO(b"RIFF" + bytes(50_000))
wav.name = "speech.wav"
assert client.audio.transcriptions.create(model="llama", file=wav).text

# OpenAI: what is refused.
stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="mg-wrong", max_retries=0)
error = raises(openai.AuthenticationError, lambda: stranger.chat.completions.create(model="llama", messages=hello))
assert error.code == "invalid_api_key"
assert "Incorrect API key provided." in str(error), error
assert error.response.headers["x-should-retry"] == "false", error.response.headers
raises(openai.AuthenticationError, lambda: stranger.models.list())
error = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="nope", messages=hello))
assert error.code == "model_not_found"
bob = openai.OpenAI(base_url=f"{url}/v1", api_key=llama_key, max_retries=0)
raises(openai.NotFoundError, lambda: bob.chat.completions.create(model="org/qwen", messages=hello))
raises(openai.NotFoundError, lambda: bob.models.retrieve("org/qwen"))
raises(openai.BadRequestError, lambda: client.chat.completions.create(model="", messages=hello))


# OpenAI: limited, and patient.
def limited(who):
    return who.chat.completions.create(model="llama-limited", messages=hello)


limited(client)
error = raises(openai.RateLimitError, lambda: limited(client))
assert error.code == "rate_limit_exceeded", error.code
patient = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
started = time.monotonic()
limited(patient)
assert 0.2 < time.monotonic() - started < 30, "it waits as told and then succeeds"

# Anthropic.
claude = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def message(who, model):
    return who.messages.create(model=model, max_tokens=16, messages=hello)


assert message(claude, "llama").content[0].text
with claude.messages.stream(model="llama", max_tokens=16, messages=hello) as stream:
    assert "".join(stream.text_stream)
assert [m.id for m in claude.models.list()] == ["llama", "llama-hourly", "llama-limited", "org/qwen"]
error = raises(anthropic.NotFoundError, lambda: message(claude, "nope"))
assert error.body["error"]["type"] == "not_found_error", error.body
wrong = anthropic.Anthropic(base_url=url, api_key="mg-wrong", max_retries=0)
raises(anthropic.AuthenticationError, lambda: message(wrong, "llama"))
raises(anthropic.BadRequestError, lambda: message(claude, ""))
raises(anthropic.RateLimitError, lambda: [message(claude, "llama-limited") for _ in range(3)])


# A limit per hour: nobody sleeps until it is over, however patient.
def hourly(who):
    return message(who, "llama-hourly")


patient_claude = anthropic.Anthropic(base_url=url, api_key=key)
assert hourly(patient_claude).content[0].text
for refused in (
    lambda: hourly(patient_claude),
    lambda: patient.chat.completions.create(model="llama-hourly", messages=hello),
):
    started = time.monotonic()
    error = raises((anthropic.RateLimitError, openai.RateLimitError), refused)
    assert error.response.headers["x-should-retry"] == "false", error.response.headers
    assert int(error.response.headers["retry-after"]) > 3000, error.response.headers
    assert time.monotonic() - started < 30, "it does not wait"
print("all good")
