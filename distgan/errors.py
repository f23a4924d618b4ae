"""The one exception for what a user did: bad settings, bad data, a bad place to write."""

from collections.abc import Iterable


class InputError(ValueError):
    """One or more sentences, each naming the field, the value and the mend; programs print them and exit with 2."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
