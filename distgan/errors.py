"""What ends a program by a sentence instead of a traceback."""

from collections.abc import Iterable


class InputError(ValueError):
    """What a user did: bad settings, bad data, a bad place to write.

    One or more sentences, each naming the field, the value and the mend; programs print them and exit with 2.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunError(RuntimeError):
    """Something outside of the program went wrong while it ran, in one sentence; programs print it and exit with 1."""
