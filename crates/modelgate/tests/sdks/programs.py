"""Runs a program as its page says, with another key, model or prompt, and returns what it shows."""

import json
import os
import subprocess
import urllib.request
from functools import cache
from pathlib import Path

from cases import blocks, hello, keys, settings, url

# As long as a user may be expected to wait, on a machine that others load.
PATIENCE = 180


@cache
def programs():
    """A folder with the programs by their names. The installer of Claude Code's package would make one of the two itself."""
    folder = Path(settings["folder"])
    (folder / "bin").mkdir()
    for name, script in (("claude", "@anthropic-ai/claude-code/cli-wrapper.cjs"), ("codex", "@openai/codex/bin/codex.js")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec node {folder}/node_modules/{script} "$@"\n')
        program.chmod(0o755)
    return folder / "bin"


class Failed(Exception):
    """The program has shown this, and ended with another status than 0."""


class Program:
    """`large` is how its last line reads the prompt from the standard input."""

    def __init__(self, large, config=None):
        self.large, self.config = large, config

    def shows(self, case, key="any", model="llama", large=False, more=""):
        """What it shows on its standard output. Each case has a home of its own."""
        home = Path(settings["folder"]) / case
        home.mkdir()

        def with_choices(text):
            return text.replace(keys["any"], keys[key]).replace("llama", model)

        if self.config:
            path = home / self.config
            path.parent.mkdir()
            path.write_text(with_choices(blocks("toml")[0]) + more)
        lines = with_choices(blocks("sh")[0])
        prompt = home / "prompt.txt"
        prompt.write_text("Hello " * (150_000 if large else 1))
        if large:
            assert '"Hello"' in lines, "the page's last line asks something"
            lines = lines.replace('"Hello"', self.large)
        done = subprocess.run(
            ["bash", "-e"],
            input=f"{more if not self.config else ''}\n{lines.rstrip()} < prompt.txt\n",
            cwd=home,
            env={**os.environ, "HOME": str(home), "PATH": f"{programs()}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise Failed(f"{done.stdout}{done.stderr}".strip())
        return done.stdout.strip()


def use_up(key):
    """The one request that the key's limit allows."""
    headers = {"Authorization": f"Bearer {keys[key]}", "Content-Type": "application/json"}
    body = json.dumps({"model": "llama-sim", "messages": hello}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", body, headers)) as answer:
        answer.read()
