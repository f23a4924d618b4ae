"""log.jsonl: a JSON object per line, of every interval and event of a run."""

import json
from collections.abc import Mapping
from pathlib import Path

BEGINNINGS = ("start", "resume")  # the events of which every sitting of a run has one


class RunLog:
    """The file at `path`, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, record: Mapping[str, object]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def num_sittings(self) -> int:
        """How often the run was begun, for the first time or again, by what is in the log now."""
        if not self._path.exists():
            return 0
        with open(self._path, encoding="utf-8") as file:
            return sum(_is_beginning(line) for line in file if '"event"' in line)


def _is_beginning(line: str) -> bool:
    try:
        return json.loads(line).get("event") in BEGINNINGS
    except ValueError:
        return False  # a full disk may have cut a line short
