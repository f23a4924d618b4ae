"""Reads and decodes samples by their places; every image is checked against its checksum before it is decoded.

Files are read with pread, not through a mapping: a shard that shrinks under a mapping kills the process with SIGBUS, here it is an error
with a name.
"""

import functools
import os
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Self

import numpy as np

from distgan.data.decoding import Decoder, UnreadableImageError, decode_into
from distgan.data.index import Shard

OPEN_SHARDS = 256  # two descriptors each: of the shard and of its index
REASONS = ("shard", "checksum", "decoding")


class Problem(NamedTuple):
    """A sample that could not be read.

    Attributes:
        row: of the batch it was read for.
        key: its name; empty where the index cannot be asked.
        reason: one of REASONS, for counting; `sentence` is for people.
    """

    row: int
    shard: int
    place: int
    key: str
    reason: str
    sentence: str


@dataclass
class ReadStatistics:
    """What was read, and what it took; seconds are summed over workers."""

    samples: int = 0
    bytes: int = 0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    wait_seconds: float = 0.0  # that training was kept waiting
    skipped: Counter[str] = field(default_factory=Counter)  # how often a sample was replaced, by reason

    def __iadd__(self, other: "ReadStatistics") -> Self:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


class SampleReader:
    """Reads samples out of shards, of which it keeps the last OPEN_SHARDS open.

    Args:
        shards: by their numbers; those that it is asked for have to be there by then.
    """

    def __init__(self, shards: Mapping[int, Shard] | Sequence[Shard]) -> None:
        self._shards = shards
        self._open = functools.lru_cache(OPEN_SHARDS)(self._opened)
        self._verified: set[int] = set()

    def _opened(self, number: int) -> "_OpenShard":
        shard = _OpenShard(self._shards[number], verify=number not in self._verified)
        self._verified.add(number)
        return shard

    def read(self, shards: np.ndarray, places: np.ndarray, images: np.ndarray, labels: np.ndarray) -> tuple[list[Problem], ReadStatistics]:
        """Read the samples at `places` of `shards` (both [n] int64) into images [n, side, side, C] uint8 and labels [n] int64.

        Returns:
            What could not be read, and the figures of what was. Rows of the former hold anything.
        """
        problems: list[Problem] = []
        statistics = ReadStatistics()
        order = np.argsort(shards, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            number, own_places = int(shards[rows[0]]), places[rows]
            try:
                shard = self._open(number)
            except (OSError, ValueError) as error:
                problems += [
                    Problem(row, number, place, "", "shard", _unusable(self._shards[number], error))
                    for row, place in zip(rows.tolist(), own_places.tolist(), strict=True)
                ]
                continue
            for row, place, sample in zip(rows.tolist(), own_places.tolist(), shard.index[own_places].tolist(), strict=True):
                offset, num_bytes, crc32, label, width, height, channels, decoder = sample
                begin = time.perf_counter()
                payload = shard.read(offset, num_bytes)
                is_whole = payload is not None and len(payload) == num_bytes and zlib.crc32(payload) == crc32
                middle = time.perf_counter()
                statistics.read_seconds += middle - begin
                if payload is None or not is_whole:
                    key, sentence = shard.named(place, "is not what its index says: it was damaged")
                    problems.append(Problem(row, number, place, key, "checksum", sentence))
                    continue
                try:
                    decode_into(images[row], payload, Decoder(decoder), width, height, channels)
                except UnreadableImageError as error:
                    key, sentence = shard.named(place, f"cannot be decoded ({error})")
                    problems.append(Problem(row, number, place, key, "decoding", sentence))
                    continue
                labels[row] = label
                statistics.decode_seconds += time.perf_counter() - middle
                statistics.samples += 1
                statistics.bytes += num_bytes
        return problems, statistics


def _mend(shard: Shard) -> str:
    return (
        f"Put the right files back; or remove {shard.index_file} and start again, so that the shard is indexed anew; "
        "or set data.on_error to skip."
    )


def _unusable(shard: Shard, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{shard.location} and {shard.index_file} are not what this run began with ({reason}). {_mend(shard)}"


class _OpenShard:
    """A shard's descriptor and index; closed when nobody reads from it any more."""

    def __init__(self, shard: Shard, verify: bool) -> None:
        self._shard = shard
        self._descriptor = os.open(shard.path, os.O_RDONLY)
        if os.fstat(self._descriptor).st_size != shard.record.bytes:
            raise ValueError("the shard has another size")
        if verify and zlib.crc32(shard.index_file.read_bytes()) != shard.record.index_crc32:
            raise ValueError("the index has another checksum")
        self.index = np.asarray(shard.load_index())  # indexing a memmap costs several times what indexing an array does

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, offset: int, num_bytes: int) -> bytes | None:
        """Bytes of the shard; fewer where it has become shorter, None where it cannot be read at all."""
        try:
            return os.pread(self._descriptor, num_bytes, offset)
        except OSError:
            return None

    def named(self, place: int, what: str) -> tuple[str, str]:
        """A sample's key, and a sentence on what is wrong with it."""
        key = self._shard.load_keys()[place]
        return key, f"The sample {key!r} of {self._shard.location} {what}. {_mend(self._shard)}"
