"""One shard's index: where each sample's image lies in the tar, its checksum, label, size and key.

A shard is read once from end to end (`tar.py`, `grouping.py`). What is not a whole, readable sample is left out and becomes a `Damage` of
the shard's record: whether a run goes on without it is the run's decision (`damage.py`), not the index's.
"""

import hashlib
import io
import json
import os
import stat
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distgan.data.decoding import EXTENSIONS
from distgan.data.shards import tar
from distgan.data.shards.grouping import NO_LABEL, SAMPLE, Damage, Grouping
from distgan.files import write_atomically

_COMPRESSIONS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}  # by first bytes


@dataclass(frozen=True, slots=True)  # there may be a million of them
class ShardRecord:
    """A line of shards.jsonl: what a run must know of a shard without opening it."""

    name: str
    bytes: int
    sha256: str
    num_samples: int
    num_labelled: int
    num_classes: int  # highest label + 1
    channels: int  # 3 if any image is in colour
    min_side: int
    max_side: int
    num_not_square: int
    index_bytes: int  # of the index file, the other half of this record
    index_crc32: int
    damages: tuple[Damage, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ShardRecord":
        """What `dataclasses.asdict` made of a record."""
        fields: dict[str, Any] = {**values, "damages": tuple(Damage(**damage) for damage in values["damages"])}
        return cls(**fields)

    @property
    def num_damaged(self) -> int:
        """The number of samples that are lost."""
        return sum(damage.num_samples for damage in self.damages)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that a run reads: its absolute path or URL, the directory of its index, its record."""

    location: str
    index_directory: Path
    record: ShardRecord

    @property
    def path(self) -> Path:
        """Of a local shard."""
        return Path(self.location)

    @property
    def index_file(self) -> Path:
        return self.index_directory / f"{self.record.name}.index"

    def has_its_sizes(self) -> bool:
        """Whether the shard and its index are there and as long as they were."""
        return file_bytes(self.location) == self.record.bytes and file_bytes(self.index_file) == self.record.index_bytes

    def is_index_whole(self) -> bool:
        """Whether the index file holds the bytes that were written into it."""
        return zlib.crc32(self.index_file.read_bytes()) == self.record.index_crc32

    @property
    def is_remote(self) -> bool:
        """Whether the shard lies behind a URL."""
        return is_remote(self.location)

    def load_index(self) -> np.ndarray:
        """The samples as a memory-mapped array of `grouping.SAMPLE`; the index has to be here (`remote.shards.fetch_index`)."""
        return load_index(self.index_file, self.record.num_samples)

    def load_keys(self) -> list[str]:
        """The samples' keys."""
        return load_keys(self.index_file, self.record.num_samples)


def file_bytes(path: str | Path) -> int | None:
    """The size of a regular file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_remote(location: str) -> bool:
    """Whether a shard's location, or its directory's, is a URL."""
    return "://" in location


def index_path(shard: Path, index_directory: Path) -> Path:
    """Where the index of `shard` is kept."""
    return index_directory / f"{shard.name}.index"


def index_shard(shard: Path, index_directory: Path) -> ShardRecord:
    """Read the whole shard and write its index; one that holds no whole sample has a damage that says so."""
    num_bytes = shard.stat().st_size
    with open(shard, "rb") as file:
        found = Grouping(shard, file)
        try:
            for item in tar.walk(file, num_bytes):
                found.add(item)
            samples, damages = found.result()
        except tarfile.TarError as error:
            samples, damages = [], [Damage(None, _no_tar(file, error), is_open=True)]
    if not samples and not damages:
        damages = [Damage(None, _no_image(found.extensions), is_open=bool(found.extensions))]
    table = np.array([row for _, row in samples], dtype=SAMPLE)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    content.write("".join(json.dumps(key) + "\n" for key, _ in samples).encode())
    write_atomically(index_path(shard, index_directory), content.getvalue())
    labelled = table["label"][table["label"] != NO_LABEL]
    sides = np.concatenate([table["width"], table["height"]])
    return ShardRecord(
        name=shard.name,
        bytes=num_bytes,
        sha256=sha256_of(shard),
        num_samples=len(table),
        num_labelled=len(labelled),
        num_classes=int(labelled.max()) + 1 if len(labelled) else 0,
        channels=int(table["channels"].max(initial=1)),
        min_side=int(sides.min()) if samples else 0,
        max_side=int(sides.max()) if samples else 0,
        num_not_square=int((table["width"] != table["height"]).sum()),
        index_bytes=len(content.getvalue()),
        index_crc32=zlib.crc32(content.getvalue()),
        damages=tuple(damages),
    )


def load_index(path: Path, num_samples: int) -> np.ndarray:
    """The samples of an index file as a memory-mapped array of `SAMPLE`; safe to call from several threads at once.

    Not by np.load: it compiles the header as Python, and before 3.11.8 and 3.12.2 a thread that is switched to while another one
    compiles raises SystemError (python/cpython#106905). The header says nothing that is not known: `index_shard` wrote it.
    """
    with open(path, "rb") as file:
        return np.memmap(file, SAMPLE, mode="r", offset=_rows_start(file), shape=(num_samples,))


def load_keys(path: Path, num_samples: int) -> list[str]:
    """The samples' keys, in the order of `load_index`."""
    with open(path, "rb") as file:
        file.seek(_rows_start(file) + num_samples * SAMPLE.itemsize)
        return [json.loads(line) for line in file.read().splitlines()]


def _rows_start(file: BinaryIO) -> int:
    np.lib.format.read_magic(file)
    header_bytes = int.from_bytes(file.read(2), "little")
    return file.tell() + header_bytes


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_tar(file: BinaryIO, error: tarfile.TarError) -> str:
    file.seek(0)
    start = file.read(8)
    if not start:
        return "is an empty file; copy or pack it again"
    for magic, program in _COMPRESSIONS.items():
        if start.startswith(magic):
            return (
                f"is compressed, so no sample of it can be read by its place; unpack it ({program}) and set data.url to the tar, "
                "or set data.mode to stream"
            )
    if start.startswith((b"PK", b"\x93NUMPY")):
        return f"is no tar, but may be a source for one: python -m distgan.data pack {Path(file.name).name} shards"
    return f"is not a readable tar ({error}); pack it again or take it out of data.url"


def _no_image(extensions: set[str]) -> str:
    if not extensions:
        return "is a tar without any file; pack it again or take it out of data.url"
    return (
        f"holds no image ({', '.join(sorted(EXTENSIONS))}), only {', '.join(sorted(extensions)[:5])}: "
        "a name's extension begins at its first dot; pack it again or take it out of data.url"
    )
