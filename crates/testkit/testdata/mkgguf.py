#!/usr/bin/env python3
"""Write a tiny model with random weights for llama.cpp: it answers nonsense, but it answers.

usage: mkgguf.py OUT.gguf [NAME]

The file is GGUF version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) with a llama-architecture model
of two layers, about half a megabyte. Same arguments, same bytes. Needs nothing but Python.
"""

import random
import struct
import sys
from itertools import chain

WIDTH, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 2, 4, 2, 2048
FEED_FORWARD, HEAD = WIDTH * 2, WIDTH // HEADS
KV_WIDTH = HEAD * KV_HEADS
ALIGNMENT = 32

# Value types of GGUF, and of its tokens.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

PACK = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def vocabulary():
    """The tokens, as (text, score, type): three special ones, every byte, and a few letters and words."""
    yield from (("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL))
    yield from ((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256))
    letters = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,!?'"
    words = "the a and model hello world is of to in".split()
    texts = ["\u2581", *letters, *("\u2581" + word for word in words)]
    yield from ((text, -float(rank), NORMAL) for rank, text in enumerate(texts, 1))


def metadata(name, tokens):
    """The key-value pairs, as (key, type, value); for an array the type is that of its elements."""
    texts, scores, types = zip(*tokens)
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, name),
        ("general.description", STRING, "random weights, for protocol tests only"),
        ("general.file_type", UINT32, 0),
        ("llama.context_length", UINT32, CONTEXT),
        ("llama.embedding_length", UINT32, WIDTH),
        ("llama.block_count", UINT32, LAYERS),
        ("llama.feed_forward_length", UINT32, FEED_FORWARD),
        ("llama.attention.head_count", UINT32, HEADS),
        ("llama.attention.head_count_kv", UINT32, KV_HEADS),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("llama.rope.dimension_count", UINT32, HEAD),
        ("llama.rope.freq_base", FLOAT32, 10000.0),
        ("llama.vocab_size", UINT32, len(tokens)),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", STRING, texts),
        ("tokenizer.ggml.scores", FLOAT32, scores),
        ("tokenizer.ggml.token_type", INT32, types),
        ("tokenizer.ggml.unknown_token_id", UINT32, 0),
        ("tokenizer.ggml.bos_token_id", UINT32, 1),
        ("tokenizer.ggml.eos_token_id", UINT32, 2),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_eos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, CHAT_TEMPLATE),
    ]


def tensors(vocabulary_size):
    """The tensors, as (name, shape, whether random); the others, which scale, are all ones."""
    yield "token_embd.weight", (vocabulary_size, WIDTH), True
    yield "output_norm.weight", (WIDTH,), False
    yield "output.weight", (vocabulary_size, WIDTH), True
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (WIDTH,), False
        yield block + "ffn_norm.weight", (WIDTH,), False
        yield block + "attn_q.weight", (WIDTH, WIDTH), True
        yield block + "attn_k.weight", (KV_WIDTH, WIDTH), True
        yield block + "attn_v.weight", (KV_WIDTH, WIDTH), True
        yield block + "attn_output.weight", (WIDTH, WIDTH), True
        yield block + "ffn_gate.weight", (FEED_FORWARD, WIDTH), True
        yield block + "ffn_up.weight", (FEED_FORWARD, WIDTH), True
        yield block + "ffn_down.weight", (WIDTH, FEED_FORWARD), True


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    return string(value) if kind == STRING else struct.pack(PACK[kind], value)


def pair(key, kind, value):
    if not isinstance(value, tuple):
        return string(key) + struct.pack("<I", kind) + scalar(kind, value)
    head = string(key) + struct.pack("<IIQ", ARRAY, kind, len(value))
    return head + b"".join(scalar(kind, element) for element in value)


def padded(data):
    return data + bytes(-len(data) % ALIGNMENT)


def weights(shape, is_random, source):
    count = 1
    for size in shape:
        count *= size
    values = [source.gauss(0.0, 0.05) for _ in range(count)] if is_random else [1.0] * count
    return padded(struct.pack(f"<{count}f", *values))


def gguf(name):
    tokens = list(vocabulary())
    pairs = metadata(name, tokens)
    source = random.Random(0)
    descriptions, data, offset = [], [], 0
    for tensor, shape, is_random in tensors(len(tokens)):
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        descriptions.append(string(tensor) + dimensions + struct.pack("<IQ", 0, offset))  # 0: 32-bit floats
        data.append(weights(shape, is_random, source))
        offset += len(data[-1])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(descriptions), len(pairs))
    return padded(b"".join(chain([head], (pair(*p) for p in pairs), descriptions))) + b"".join(data)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    name = sys.argv[2] if len(sys.argv) == 3 else "tiny-random-llama"
    with open(sys.argv[1], "wb") as out:
        out.write(gguf(name))


if __name__ == "__main__":
    main()
