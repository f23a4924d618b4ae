"""Shards of local directories: indexed on first use, and again when they change.

The index lies beside the shards, or in the user's cache where that cannot be written.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from distgan.data.parallel import in_processes
from distgan.data.shards import index
from distgan.data.shards.index import Shard, ShardRecord
from distgan.data.shards.records import directory_in_cache, read_records, write_records
from distgan.errors import InputError
from distgan.files import locked


def open_directory(directory: Path, names: Sequence[str]) -> dict[str, Shard]:
    """The shards of these names in `directory`, by name; indexes what is new or has changed, under a lock.

    Raises:
        InputError: no place for an index can be written.
    """
    records = read_records(directory)
    if not any(_is_stale(directory, name, directory, records.get(name)) for name in names):  # as ever after the first time
        return _shards(directory, names, directory, records)
    index_directory = _index_directory(directory)
    try:
        return _index_stale(directory, names, index_directory)
    except OSError as error:
        raise InputError(
            f"data.url names shards in {directory}, whose index cannot be written in {index_directory} ({error.strerror}); "
            "make it writable, or index the shards as a user who may."
        ) from None


def recorded(directory: Path) -> list[Shard]:
    """Every shard that was indexed in `directory`, as it was then, whatever has become of it since. Reads no shard, writes nothing."""
    by_name: dict[str, Shard] = {}
    for index_directory in (directory, directory_in_cache(str(directory))):
        for name, record in read_records(index_directory).items():
            shard = Shard(str(directory / name), index_directory, record)
            by_name[name] = max(by_name.get(name, shard), shard, key=_likeness)
    return [by_name[name] for name in sorted(by_name)]


def _likeness(shard: Shard) -> tuple[bool, int]:
    """Larger for the record of a shard that is more likely the one of what is there now, and the newer one."""
    return shard.has_its_sizes(), shard.index_file.stat().st_mtime_ns if shard.index_file.is_file() else 0


def forget_missing(directory: Path, index_directory: Path) -> list[Path]:
    """Take the shards that are no longer there out of a directory's manifest; returns them. Where that cannot be written, none."""
    missing = [directory / name for name in read_records(index_directory) if index.file_bytes(directory / name) is None]
    if not missing or not os.access(index_directory, os.W_OK):
        return []
    with locked(index_directory / ".manifest.lock"):
        records = read_records(index_directory)
        write_records(index_directory, {name: record for name, record in records.items() if directory / name not in missing})
    return missing


def _index_stale(directory: Path, names: Sequence[str], index_directory: Path) -> dict[str, Shard]:
    with locked(index_directory / ".manifest.lock"):
        records = read_records(index_directory)
        stale = [name for name in dict.fromkeys(names) if _is_stale(directory, name, index_directory, records.get(name))]
        if stale:
            # The old records go first: an index of the new shard beside a record of the old one would look right.
            current = {name for name in records.keys() - set(stale) if not _is_stale(directory, name, index_directory, records[name])}
            records = {name: records[name] for name in sorted(current)}
            write_records(index_directory, records)
            tasks = [(directory / name, index_directory) for name in stale]
            indexed = in_processes(index.index_shard, tasks, num_bytes=sum(path.stat().st_size for path, _ in tasks))
            # disable=None: no bar where nobody watches
            progress = tqdm(indexed, total=len(stale), desc=f"indexing {directory.name}", unit="shard", disable=None)
            for name, found in zip(stale, progress, strict=True):
                records[name] = found
            write_records(index_directory, records)
    return _shards(directory, names, index_directory, records)


def _shards(directory: Path, names: Sequence[str], index_directory: Path, records: Mapping[str, ShardRecord]) -> dict[str, Shard]:
    return {name: Shard(os.path.join(directory, name), index_directory, records[name]) for name in names}


def _index_directory(directory: Path) -> Path:
    """The shards' own directory if it can be written, else one of the user's cache."""
    if os.access(directory, os.W_OK):
        return directory
    elsewhere = directory_in_cache(str(directory))
    try:
        elsewhere.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data.url names shards in {directory}, which cannot be written, and {elsewhere} cannot be made either ({error.strerror}); "
            "make one of them writable for the index."
        ) from None
    return elsewhere


def _is_stale(directory: Path, name: str, index_directory: Path, record: ShardRecord | None) -> bool:
    """Whether the shard must be read again. A newer time alone (a copy) is settled by the checksum."""
    if record is None:
        return True
    shard = Shard(os.path.join(directory, name), index_directory, record)
    if not shard.has_its_sizes():
        return True
    if os.stat(shard.location).st_mtime_ns <= os.stat(shard.index_file).st_mtime_ns:
        return False
    if index.sha256_of(shard.path) != record.sha256:
        return True
    with contextlib.suppress(OSError):  # read-only: the checksum will be asked again
        os.utime(shard.index_file)
    return False
