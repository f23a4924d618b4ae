"""What the launcher tells a person."""

import sys


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(f"distgan.launch: {text}", file=sys.stderr, flush=True)
