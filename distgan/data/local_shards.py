"""Shards of local directories: indexed on first use, and again when they change.

The index lies beside the shards, or in the user's cache where that cannot be written.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs
from joblib import Parallel, delayed
from tqdm import tqdm

from distgan.data import index
from distgan.data.index import Shard, ShardRecord
from distgan.data.records import read_records, write_records
from distgan.errors import InputError
from distgan.files import locked

_PARALLEL_BYTES = 1 << 26  # indexing less than this is done before processes for it have started


def open_directory(directory: Path, paths: Sequence[Path]) -> dict[str, Shard]:
    """The shards at these paths in `directory`, by name; indexes what is new or has changed, under a lock.

    Raises:
        InputError: a shard cannot be indexed, or no place for its index can be written.
    """
    records = read_records(directory)
    if not any(_is_stale(path, directory, records.get(path.name)) for path in paths):  # as ever after the first time, read-only or not
        return {path.name: Shard(str(path), directory, records[path.name]) for path in paths}
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
        records = read_records(index_directory)
        stale = [path for path in dict.fromkeys(paths) if _is_stale(path, index_directory, records.get(path.name))]
        if stale:
            # The old records go first: an index of the new shard beside a record of the old one would look right.
            stale_names = {path.name for path in stale}
            current = {name for name in records.keys() - stale_names if not _is_stale(directory / name, index_directory, records[name])}
            records = {name: records[name] for name in sorted(current)}
            write_records(index_directory, records)
            indexed = _indexed(stale, index_directory)
            # disable=None: no bar where nobody watches
            for record in tqdm(indexed, total=len(stale), desc=f"indexing {directory.name}", unit="shard", disable=None):
                records[record.name] = record
            write_records(index_directory, records)
    return {path.name: Shard(str(path), index_directory, records[path.name]) for path in paths}


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
