"""Reads and decodes samples by their places; every image is checked against its checksum before it is decoded."""

import functools
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from distgan.data.decoding import Decoder, UnreadableImageError, decode_into
from distgan.data.reading.local_file import LocalFile, ShardFile
from distgan.data.remote.transfer import ChangedShardError
from distgan.data.shards.index import Shard

if TYPE_CHECKING:  # an HTTP client comes with them, which takes longer to import than all the rest
    from distgan.data.reading.remote_file import RemoteSources
    from distgan.data.remote.cache import CacheSettings

OPEN_SHARDS = 256  # two descriptors each: of the shard and of its index
REASONS = ("shard", "checksum", "decoding", "label", "sample")  # "sample": of a stream, its members are doubled, missing or no files


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
    cache_hits: int = 0  # samples of remote shards that came from the cache
    cache_misses: int = 0  # those that were read by ranges
    skipped: Counter[str] = field(default_factory=Counter)  # how often a sample was replaced, by reason

    def __iadd__(self, other: "ReadStatistics") -> Self:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


class SampleReader:
    """Reads samples out of shards, of which it keeps the last OPEN_SHARDS open.

    Args:
        shards: by their numbers; those that it is asked for have to be there by then.
        cache: of remote shards; None: there are none.
        fetch: whether remote shards belong into the cache as a whole, once they are needed.
    """

    def __init__(self, shards: Mapping[int, Shard] | Sequence[Shard], cache: "CacheSettings | None" = None, fetch: bool = True) -> None:
        self._shards = shards
        self._remote = _remote_sources(cache, fetch) if cache else None
        self._open = functools.lru_cache(OPEN_SHARDS)(self._opened)
        self._verified: set[int] = set()

    def read(self, shards: np.ndarray, places: np.ndarray, images: np.ndarray, labels: np.ndarray) -> tuple[list[Problem], ReadStatistics]:
        """Read the samples at `places` of `shards` (both [n] int64) into images [n, side, side, C] uint8 and labels [n] int64.

        Returns:
            What could not be read, and the figures of what was. Rows of the former hold anything.

        Raises:
            TransferError: a server cannot be reached, or gives what it should not.
        """
        problems: list[Problem] = []
        statistics = ReadStatistics()
        order = np.argsort(shards, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            number, own_places = int(shards[rows[0]]), places[rows]
            try:
                shard = self._open(number)
            except (OSError, ValueError) as error:
                problems += _all_of(number, rows, own_places, _unusable(self._shards[number], error))
                continue
            try:
                problems += _read_shard(shard, number, rows, own_places, images, labels, statistics)
            except ChangedShardError as error:
                problems += _all_of(number, rows, own_places, str(error))
        return problems, statistics

    def _opened(self, number: int) -> "_OpenShard":
        shard, is_new = self._shards[number], number not in self._verified
        if self._remote is None or not shard.is_remote:
            file = LocalFile(shard.path, shard.record.bytes)
            if is_new and not shard.is_index_whole():
                raise ValueError("the index has another checksum")
        else:
            file = self._remote.open(shard, verify_index=is_new)
        opened = _OpenShard(shard, file)
        self._verified.add(number)
        return opened


def _remote_sources(cache: "CacheSettings", fetch: bool) -> "RemoteSources":
    from distgan.data.reading.remote_file import RemoteSources

    return RemoteSources(cache, fetch)


class _OpenShard:
    """A shard's bytes and index."""

    def __init__(self, shard: Shard, file: ShardFile) -> None:
        self._shard, self.file = shard, file
        self.index = np.asarray(shard.load_index())  # indexing a memmap costs several times what indexing an array does

    def named(self, place: int, what: str) -> tuple[str, str]:
        """A sample's key, and a sentence on what is wrong with it."""
        key = self._shard.load_keys()[place]
        return key, f"The sample {key!r} of {self._shard.location} {what}."


def _read_shard(
    shard: _OpenShard, number: int, rows: np.ndarray, places: np.ndarray, images: np.ndarray, labels: np.ndarray, statistics: ReadStatistics
) -> list[Problem]:
    """Read the samples of one shard; what could not be read."""
    problems = []
    samples = shard.index[places].tolist()
    begin = time.perf_counter()
    payloads = iter(shard.file.read([sample[:2] for sample in samples]))
    for row, place, (_, num_bytes, crc32, label, width, height, channels, decoder) in zip(
        rows.tolist(), places.tolist(), samples, strict=True
    ):
        payload = next(payloads)
        is_whole = payload is not None and len(payload) == num_bytes and zlib.crc32(payload) == crc32
        middle = time.perf_counter()
        statistics.read_seconds += middle - begin
        begin = middle
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
        begin = time.perf_counter()
        statistics.decode_seconds += begin - middle
        statistics.samples += 1
        statistics.bytes += num_bytes
    if shard.file.is_cached is not None:
        statistics.cache_hits += len(samples) * shard.file.is_cached
        statistics.cache_misses += len(samples) * (not shard.file.is_cached)
    return problems


def _all_of(number: int, rows: np.ndarray, places: np.ndarray, sentence: str) -> list[Problem]:
    return [Problem(row, number, place, "", "shard", sentence) for row, place in zip(rows.tolist(), places.tolist(), strict=True)]


def _unusable(shard: Shard, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{shard.location} and {shard.index_file} are not what this run began with ({reason})."
