"""The manifest of a shard set, kept beside the shards: what is there, and a hash that names it.

    manifest.json    version, hash and totals of the directory
    shards.jsonl     a `ShardRecord` a line
    <shard>.index    see index.py

Shards written by anybody are indexed on first use. Where the directory cannot be written, the three go to the user's cache.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import platformdirs
from joblib import Parallel, delayed
from tqdm import tqdm

from distgan.data import index
from distgan.data.damage import FAIL, DamagePolicy, Skip
from distgan.data.grouping import NO_LABEL
from distgan.data.index import Shard, ShardRecord
from distgan.errors import InputError
from distgan.files import locked, write_atomically

VERSION = 2  # of the files; indexes of another version are made anew
_HASH_VERSION = 1  # of what the hash is taken over: it names the order of a run's samples
_PARALLEL_BYTES = 1 << 26  # indexing less than this is done before processes for it have started


@dataclass(frozen=True)
class Manifest:
    """The shards of a run in their order, and the SHA-256 that names this content in this order."""

    shards: tuple[Shard, ...]
    hash: str

    @property
    def num_samples(self) -> int:
        return sum(shard.record.num_samples for shard in self.shards)

    @property
    def num_damaged(self) -> int:
        """The number of samples that were found damaged at indexing and are none of the samples."""
        return sum(shard.record.num_damaged for shard in self.shards)

    @property
    def skips(self) -> list[Skip]:
        """What was found damaged at indexing, in words."""
        return [
            Skip(str(shard.path), damage.key or "", f"{shard.path} {damage.text}.")
            for shard in self.shards
            for damage in shard.record.damages
        ]

    @property
    def num_classes(self) -> int:
        return max(shard.record.num_classes for shard in self.shards)

    @property
    def channels(self) -> int:
        """3 if any image is in colour, else 1."""
        return max(shard.record.channels for shard in self.shards)

    def image_size(self, resolution: int | None) -> int:
        """The side of the square images: `resolution`, or what all of them share.

        Raises:
            InputError: they differ or are not square, and no resolution is set.
        """
        if resolution is not None:
            return resolution
        smallest = min(shard.record.min_side for shard in self.shards)
        largest = max(shard.record.max_side for shard in self.shards)
        if smallest != largest:
            kind = "different sizes" if not any(shard.record.num_not_square for shard in self.shards) else "sizes that are not one square"
            raise InputError(
                f"data.resolution is null, but the images have {kind} (sides of {smallest} to {largest} pixels); "
                "set data.resolution to the side to which they are scaled and cropped."
            )
        return smallest

    def check_labels(self, option: str = "model.conditional") -> None:
        """Raise InputError, naming one, if a sample has no label; `option` is the switch that asks for them."""
        for shard in self.shards:
            if shard.record.num_labelled < shard.record.num_samples:
                number = int(np.flatnonzero(shard.load_index()["label"] == NO_LABEL)[0])
                raise InputError(
                    f"{option} is true, but the sample {shard.load_keys()[number]!r} of {shard.path} has no label (.cls); "
                    f"add the label or set {option} to false."
                )


def open_manifest(paths: Sequence[Path], policy: DamagePolicy = FAIL) -> Manifest:
    """The manifest of these shards in this order; indexes what is new or has changed, under a lock.

    Raises:
        InputError: a shard is damaged and the policy does not pass over it, or no place for its index can be written.
    """
    by_directory: dict[Path, dict[str, Shard]] = {}
    for directory in dict.fromkeys(path.parent for path in paths):
        by_directory[directory] = _open_directory(directory, [path for path in paths if path.parent == directory])
    shards = tuple(by_directory[path.parent][path.name] for path in paths)
    policy.check((shard.path, shard.record) for shard in shards)
    return Manifest(shards, _hash([shard.record for shard in shards]))


def _hash(records: Sequence[ShardRecord]) -> str:
    lines = [json.dumps([_HASH_VERSION, record.name, record.bytes, record.sha256, record.num_samples]) for record in records]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _open_directory(directory: Path, paths: Sequence[Path]) -> dict[str, Shard]:
    records = _read_records(directory)
    if not any(_is_stale(path, directory, records.get(path.name)) for path in paths):  # as ever after the first time, read-only or not
        return {path.name: Shard(path, directory, records[path.name]) for path in paths}
    index_directory = _index_directory(directory)
    try:
        return _index_stale(directory, index_directory, paths)
    except OSError as error:
        raise InputError(
            f"data.url names shards in {directory}, whose index cannot be written in {index_directory} ({error.strerror}); "
            "make it writable, or index the shards as a user who may."
        ) from None


def _index_stale(directory: Path, index_directory: Path, paths: Sequence[Path]) -> dict[str, Shard]:
    with locked(index_directory / ".manifest.lock"):
        records = _read_records(index_directory)
        stale = [path for path in dict.fromkeys(paths) if _is_stale(path, index_directory, records.get(path.name))]
        if stale:
            # The old records go first: an index of the new shard beside a record of the old one would look right.
            stale_names = {path.name for path in stale}
            current = {name for name in records.keys() - stale_names if not _is_stale(directory / name, index_directory, records[name])}
            records = {name: records[name] for name in sorted(current)}
            _write_records(index_directory, records)
            indexed = _indexed(stale, index_directory)
            # disable=None: no bar where nobody watches
            for record in tqdm(indexed, total=len(stale), desc=f"indexing {directory.name}", unit="shard", disable=None):
                records[record.name] = record
            _write_records(index_directory, records)
    return {path.name: Shard(path, index_directory, records[path.name]) for path in paths}


def _indexed(paths: Sequence[Path], index_directory: Path) -> Iterator[ShardRecord]:
    """The records of newly indexed shards, as they come."""
    is_small = sum(path.stat().st_size for path in paths) < _PARALLEL_BYTES
    pool = Parallel(n_jobs=1 if is_small else -1, return_as="generator_unordered")
    return pool(delayed(index.index_shard)(path, index_directory) for path in paths)  # pyright: ignore[reportReturnType]


def _index_directory(directory: Path) -> Path:
    """The shards' own directory if it can be written, else one of the user's cache."""
    if os.access(directory, os.W_OK):
        return directory
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:32]
    elsewhere = Path(platformdirs.user_cache_dir("distgan")) / "indexes" / name
    try:
        elsewhere.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data.url names shards in {directory}, which cannot be written, and {elsewhere} cannot be made either ({error.strerror}); "
            "make one of them writable for the index."
        ) from None
    return elsewhere


def _is_stale(path: Path, index_directory: Path, record: ShardRecord | None) -> bool:
    """Whether the shard must be read again. A newer time alone (a copy) is settled by the checksum."""
    index_file = index.index_path(path, index_directory)
    if record is None or not path.is_file() or path.stat().st_size != record.bytes:
        return True
    if not index_file.is_file() or index_file.stat().st_size != record.index_bytes:
        return True
    if path.stat().st_mtime_ns <= index_file.stat().st_mtime_ns:
        return False
    if index.sha256_of(path) != record.sha256:
        return True
    with contextlib.suppress(OSError):  # read-only: the checksum will be asked again
        os.utime(index_file)
    return False


def _read_records(directory: Path) -> dict[str, ShardRecord]:
    try:
        version = json.loads((directory / "manifest.json").read_text())["version"]
        lines = (directory / "shards.jsonl").read_text().splitlines()
        records = [ShardRecord.from_json(json.loads(line)) for line in lines] if version == VERSION else []
    except FileNotFoundError:
        records = []
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The manifest in {directory} cannot be read ({error}); remove its manifest.json to index the shards anew."
        ) from None
    return {record.name: record for record in records}


def _write_records(directory: Path, by_name: dict[str, ShardRecord]) -> None:
    records = [by_name[name] for name in sorted(by_name)]
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    totals = {
        "version": VERSION,
        "hash": _hash(records),
        "num_shards": len(records),
        "num_samples": sum(record.num_samples for record in records),
        "bytes": sum(record.bytes for record in records),
        "num_classes": max((record.num_classes for record in records), default=0),
    }
    write_atomically(directory / "shards.jsonl", lines.encode())
    write_atomically(directory / "manifest.json", (json.dumps(totals, indent=2) + "\n").encode())
