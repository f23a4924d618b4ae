"""A shard's index beside the bytes that it points at."""

import zlib
from pathlib import Path

import numpy as np

from distgan.data.shards.damage import FAIL
from distgan.data.shards.index import ShardRecord, index_path, index_shard, load_index


def rows_of(shard: Path, record: ShardRecord) -> np.ndarray:
    return load_index(index_path(shard, shard.parent), record.num_samples)


def index(shard: Path) -> tuple[ShardRecord, np.ndarray]:
    """A whole shard's record and rows."""
    record = index_shard(shard, shard.parent)
    FAIL.check([(shard, record)])
    return record, rows_of(shard, record)


def payloads(shard: Path, rows: np.ndarray) -> list[bytes]:
    """The bytes at which the rows point; each with the checksum that the row has."""
    content = shard.read_bytes()
    found = [content[int(row["offset"]) : int(row["offset"] + row["bytes"])] for row in rows]
    assert [zlib.crc32(payload) for payload in found] == rows["crc32"].tolist()
    return found
