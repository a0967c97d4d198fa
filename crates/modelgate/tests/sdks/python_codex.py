"""https://developers.openai.com/codex/cli as `codex exec`."""

from cases import run
from programs import Program, use_up

codex = Program(large="-", config=".codex/config.toml")


def limited(key):
    use_up(key)
    return codex.shows(key, key)


run(
    {
        "page": lambda: codex.shows("page"),
        "unknown_key": lambda: codex.shows("unknown_key", "unknown"),
        "unknown_model": lambda: codex.shows("unknown_model", model="none"),
        "too_large": lambda: codex.shows("too_large", large=True),
        "rate": lambda: limited("hour"),
        "quota": lambda: limited("day"),
        "budget": lambda: codex.shows("budget", "budget"),
        # By itself it tries for two and a half minutes.
        "loading": lambda: codex.shows("loading", model="slow", more="request_max_retries = 0\nstream_max_retries = 1\n"),
    },
    at_once=2,
)
