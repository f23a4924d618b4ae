"""The files of a manifest: manifest.json (version, hash and totals) and shards.jsonl (a `ShardRecord` a line)."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import platformdirs

from distgan.data.shards.index import ShardRecord
from distgan.errors import InputError
from distgan.files import write_atomically

VERSION = 3  # of the files; indexes of another version are made anew
TOTALS, SHARDS = "manifest.json", "shards.jsonl"
_HASH_VERSION = 1  # of what the hash is taken over: it names the order of a run's samples


def hash_of(records: Sequence[ShardRecord]) -> str:
    """The SHA-256 that names the content of these shards in this order."""
    content = hashlib.sha256()
    for number, record in enumerate(records):
        line = json.dumps([_HASH_VERSION, record.name, record.bytes, record.sha256, record.num_samples])
        content.update(b"\n" * (number > 0) + line.encode())
    return content.hexdigest()


def directory_in_cache(place: str) -> Path:
    """Where in the user's cache the files lie that cannot lie beside the shards; `place` is their directory, or its URL."""
    return Path(platformdirs.user_cache_dir("distgan")) / "indexes" / hashlib.sha256(place.encode()).hexdigest()[:32]


def parse_records(totals: bytes, lines: bytes) -> dict[str, ShardRecord]:
    """The records, by name, in the contents of the two files; none if they are of another version.

    Raises:
        ValueError, KeyError, TypeError: they are not what `write_records` writes.
    """
    if json.loads(totals)["version"] != VERSION:
        return {}
    records = (ShardRecord.from_json(json.loads(line)) for line in io.BytesIO(lines))
    return {record.name: record for record in records}


def read_records(directory: Path) -> dict[str, ShardRecord]:
    """The records, by name, that a directory holds; none if there are none, or of another version.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return parse_records((directory / TOTALS).read_bytes(), (directory / SHARDS).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The manifest in {directory} cannot be read ({error}); remove its manifest.json to index the shards anew."
        ) from None


def is_consistent(directory: Path) -> bool:
    """Whether shards.jsonl holds the records of which manifest.json has the hash."""
    totals = json.loads((directory / TOTALS).read_text())
    return totals.get("hash") == hash_of(list(read_records(directory).values()))


def write_records(directory: Path, by_name: Mapping[str, ShardRecord]) -> None:
    """Write the two files."""
    records = [by_name[name] for name in sorted(by_name)]
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    totals = {
        "version": VERSION,
        "hash": hash_of(records),
        "num_shards": len(records),
        "num_samples": sum(record.num_samples for record in records),
        "bytes": sum(record.bytes for record in records),
        "num_classes": max((record.num_classes for record in records), default=0),
    }
    write_atomically(directory / SHARDS, lines.encode())
    write_atomically(directory / TOTALS, (json.dumps(totals, indent=2) + "\n").encode())
