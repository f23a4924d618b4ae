"""What of a pack is done: a line for each whole shard, so that the same command goes on after the last of them."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distgan.data.packing.items import LeftOut
from distgan.files import write_atomically

_NAME = ".packing.jsonl"


@dataclass(frozen=True)
class ShardLine:
    """A whole shard, and everything that is reported of what went into it or was left out on the way."""

    part: str
    name: str
    next: int  # position in the part's order of the first sample of the next shard
    bytes: int
    num_samples: int
    labels: list[tuple[int | None, int]]  # how many samples of each
    left_out: list[LeftOut] = field(default_factory=list)
    min_side: int = 0
    max_side: int = 0
    num_not_square: int = 0
    channels: int = 1


def resume(staging: Path, head: dict[str, str]) -> list[ShardLine]:
    """The shards that an earlier process of the same `head` has finished in `staging`; if there was none, or another, starts over."""
    journal = staging / _NAME
    first, lines = _read(journal)
    if first != head:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        _write(journal, head, [])
        return []
    whole = []
    for line in lines:
        path = staging / line.part / line.name
        if not path.is_file() or path.stat().st_size != line.bytes:
            break
        whole.append(line)
    _write(journal, head, whole)  # without a last line that a crash cut
    return whole


def append(staging: Path, line: ShardLine) -> None:
    """Note a shard that is flushed and has its name."""
    with open(staging / _NAME, "ab") as file:
        file.write(_encoded(asdict(line)))
        file.flush()
        os.fsync(file.fileno())


def has_shards(staging: Path) -> bool:
    """Whether there is anything to go on from."""
    return bool(_read(staging / _NAME)[1])


def remove(staging: Path) -> None:
    """The pack is complete."""
    (staging / _NAME).unlink(missing_ok=True)


def _read(journal: Path) -> tuple[dict[str, str] | None, list[ShardLine]]:
    if not journal.is_file():
        return None, []
    first, *rest = [*journal.read_bytes().split(b"\n")[:-1], b""]  # what has no end of line was cut
    lines = []
    for line in rest:
        if line:
            fields = json.loads(line)
            fields["labels"] = [(label, count) for label, count in fields["labels"]]
            fields["left_out"] = [LeftOut(**entry) for entry in fields["left_out"]]
            lines.append(ShardLine(**fields))
    return json.loads(first or b"null"), lines


def _write(journal: Path, head: dict[str, str], lines: Sequence[ShardLine]) -> None:
    write_atomically(journal, b"".join([_encoded(head), *(_encoded(asdict(line)) for line in lines)]))


def _encoded(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"
