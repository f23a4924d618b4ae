"""Sets of shards that do not fit those who read them."""

import functools
import http.server
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgan.bench.damage.cases import NUM_SAMPLES, Case, damage, members, pack

_set = functools.partial(damage, "sets of shards")


def _shards(directory: Path, sizes: Sequence[int], extension: str = "png") -> list[str]:
    """Shards of so many samples each, which are numbered through."""
    shards = []
    first = 0
    for number, size in enumerate(sizes):
        shard = directory / f"{number:03d}.tar"
        pack(shard, members(range(first, first + size), extension))
        shards.append(str(shard))
        first += size
    return shards


@_set("2 shards for 4 workers", whole=20)
def _(directory: Path) -> Case:
    return Case(str(directory), _shards(directory, [10, 10]), workers=4)


@_set("2 ranks, as torchrun tells of them", whole=20)
def _(directory: Path) -> Case:
    environment = {"RANK": "0", "WORLD_SIZE": "2"}
    return Case(str(directory), _shards(directory, [10, 10]), world_size=2, batch_size=2, environment=environment)


@_set("19 + 1 samples, 2 workers, batches of 4", whole=20)
def _(directory: Path) -> Case:
    return Case(str(directory), _shards(directory, [19, 1]), workers=2, batch_size=4)


@_set("20 samples, batches of 21", whole=20)
def _(directory: Path) -> Case:
    return Case(str(directory), _shards(directory, [20]), batch_size=NUM_SAMPLES + 1)


@_set("an empty tar among others", whole=20)
def _(directory: Path) -> Case:
    return Case(str(directory), _shards(directory, [10, 0, 10]))


@_set("a file of no bytes among others", whole=20)
def _(directory: Path) -> Case:
    shards = _shards(directory, [10, 0, 10])
    Path(shards[1]).write_bytes(b"")
    return Case(str(directory), shards)


def _replaced(directory: Path, **reading: Any) -> Case:
    """Of two shards the second is overwritten by one with the same keys and sizes, and the images and labels of other samples."""
    shards = _shards(directory, [10, 10])
    other = directory / "other"
    packed = [
        (f"{number - 100:06d}.{name.partition('.')[2]}", content) for number in range(110, 120) for name, content in members([number])
    ]
    pack(other, packed)
    return Case(str(directory), shards, replace={shards[1]: str(other)}, **reading)


@_set("one of two overwritten between epochs", whole=10)
def _(directory: Path) -> Case:
    return _replaced(directory, replace_after="epoch", epochs=2)


@_set("one of two overwritten since it was first read", whole=10)
def _(directory: Path) -> Case:
    return _replaced(directory)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@_set("two of one name, behind URLs", whole=20)
def _(directory: Path) -> Case:
    for number, folder in enumerate("ab"):
        pack(directory / folder / "000.tar", members(range(10 * number, 10 * number + 10)))
    (directory / "cache").mkdir()
    handler = functools.partial(_Quiet, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    return Case(f"{address}/{{a,b}}/000.tar", [f"{address}/a/000.tar", f"{address}/b/000.tar"], cache=str(directory / "cache"))
