"""https://code.claude.com as `claude -p`."""

from cases import run
from programs import Program, use_up

claude = Program(large="")


def limited(key):
    use_up(key)
    return claude.shows(key, key, "llama-sim")


run(
    {
        "page": lambda: claude.shows("page"),
        "unknown_key": lambda: claude.shows("unknown_key", "unknown"),
        "unknown_model": lambda: claude.shows("unknown_model", model="none"),
        "too_large": lambda: claude.shows("too_large", large=True),
        "rate": lambda: limited("hour"),
        "quota": lambda: limited("day"),
        "budget": lambda: claude.shows("budget", "budget", "llama-sim"),
        "wait": lambda: limited("minute"),
        # By itself it tries for three minutes.
        "loading": lambda: claude.shows("loading", model="slow", more="export CLAUDE_CODE_MAX_RETRIES=1"),
    },
    at_once=2,
)
