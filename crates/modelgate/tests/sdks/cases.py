"""Runs the cases of one client, side by side, and prints what its user sees in each as a line of JSON.

The variable MODELGATE_SDK_SETTINGS has the settings as JSON: `url`, `keys` (by what they are limited to), `page` (the
client's page in docs/clients, with the address and the key put in) and `folder`, an empty folder.
"""

import contextlib
import io
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

settings = json.loads(os.environ["MODELGATE_SDK_SETTINGS"])
url, keys = settings["url"], settings["keys"]
hello = [{"role": "user", "content": "Hello"}]
# More than `requests.max_body`.
large = [{"role": "user", "content": "Hello " * 150_000}]
cities = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}


def blocks(language):
    """The fenced blocks of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", settings["page"], re.MULTILINE | re.DOTALL)


def page():
    """What the page's lines print."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks("python"):
            exec(compile(block, "page", "exec"), {"__name__": "__main__"})
    return said.getvalue()


def told(case, call):
    started = time.monotonic()
    try:
        line = {"said": str(call())}
    except Exception as error:
        line = {"error": type(error).__name__, "status": getattr(error, "status_code", None), "text": str(error)}
    return {"case": case, **line, "seconds": round(time.monotonic() - started, 3)}


def run(cases, at_once=1):
    """The page redirects what is printed, so it comes first. `loading` runs beside the others, because it mostly waits."""
    print(json.dumps(told("page", cases.get("page", page))), flush=True)
    waiting = ThreadPoolExecutor(1).submit(told, "loading", cases["loading"])
    others = [case for case in cases if case not in ("page", "loading")]
    with ThreadPoolExecutor(at_once) as pool:
        for line in pool.map(lambda case: told(case, cases[case]), others):
            print(json.dumps(line), flush=True)
    print(json.dumps(waiting.result()), flush=True)
