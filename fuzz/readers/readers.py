"""Reads requests as servers in Python do: vLLM, SGLang and others on Starlette and FastAPI.

It is asked on stdin and answers on stdout, one question after another: a letter (j: JSON, m: multipart, u: URI), the length of what
follows (4 bytes, big-endian), and that. The answer has a length likewise, and is a list in JSON: for each reading the values that it
finds, or null if it refuses.
"""

import json
import struct
import sys
from urllib.parse import parse_qs, unquote

from starlette.datastructures import Headers, QueryParams
from starlette.formparsers import MultiPartException, MultiPartParser


def read_json(body):
    """Starlette's Request.json(), and a field that is a text or is not given."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    model = value.get("model")
    if model is None:
        return []
    return [model] if isinstance(model, str) else None


def read_form(payload):
    """Starlette's Request.form(). The Content-Type is the first line."""
    content_type, _, body = payload.partition(b"\n")
    headers = Headers({"content-type": content_type.decode("latin-1")})

    async def stream():
        yield body

    try:
        # Nothing in it waits: files stay in memory.
        MultiPartParser(headers, stream()).parse().send(None)
    except StopIteration as parsed:
        values = [value for name, value in parsed.value.multi_items() if name == "model"]
        return [value if isinstance(value, str) else "(a file)" for value in values]
    except (MultiPartException, ValueError, KeyError, LookupError):
        return None
    return None


def read_uri(uri):
    """What uvicorn and Starlette make of a request's target: the model in the query, and the path."""
    path, _, query = uri.partition(b"?")
    query = query.decode("latin-1")
    try:
        by_starlette = QueryParams(query).getlist("model")
        by_python = parse_qs(query, keep_blank_values=True).get("model", [])
    except ValueError:
        by_starlette = by_python = None
    return [by_starlette, by_python, [unquote(path.decode("latin-1"))]]


def main():
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := questions.read(5):
        kind, length = head[:1], struct.unpack(">I", head[1:])[0]
        payload = questions.read(length)
        if kind == b"j":
            readings = [read_json(payload)]
        elif kind == b"m":
            readings = [read_form(payload)]
        else:
            readings = read_uri(payload)
        answer = json.dumps(readings).encode()
        answers.write(struct.pack(">I", len(answer)) + answer)
        answers.flush()


main()
