"""The bytes of an open shard that lies elsewhere: from the cache as soon as it is there, by ranges until then."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from distgan.data.reading.local_file import LocalFile, Range
from distgan.data.remote.cache import CacheFullError, CacheSettings, ShardCache
from distgan.data.remote.storage import read_range
from distgan.data.remote.transfer import RangesUnsupportedError, TransferError
from distgan.data.shards.index import Shard
from distgan.data.shards.remote_shards import fetch_index

REQUESTS = 16  # at once, of a process
SMALL_BYTES = 2**26  # a shard that comes whole in about the time that its samples would take one by one


class RemoteSources:
    """Opens remote shards for one process.

    Args:
        whole: whether shards belong into the cache as a whole, once they are needed.
    """

    def __init__(self, settings: CacheSettings, whole: bool) -> None:
        self._cache, self._whole = settings.cache(), whole
        self._pool = ThreadPoolExecutor(REQUESTS)

    def open(self, shard: Shard, verify_index: bool) -> "RemoteFile":
        """A shard to read from, its index brought if it is not here; or not the right one, which costs reading it.

        Raises:
            TransferError, ValueError: the index cannot be brought, or is another one.
        """
        if verify_index or not shard.index_file.is_file():
            fetch_index(shard)
        return RemoteFile(shard, self._cache, self._pool, self._whole and shard.record.bytes <= SMALL_BYTES)


class RemoteFile:
    """A shard that is read by ranges as long as the cache has not got it. A fetcher fills the cache; small shards come at once."""

    def __init__(self, shard: Shard, cache: ShardCache, pool: ThreadPoolExecutor, at_once: bool) -> None:
        self._url, self._record = shard.location, shard.record
        self._cache, self._pool, self._at_once = cache, pool, at_once
        self._cached: LocalFile | None = None

    @property
    def is_cached(self) -> bool:
        """Whether the last read came from the cache."""
        return self._cached is not None

    def read(self, ranges: list[Range]) -> Iterable[bytes | None]:
        """As `ShardFile.read`.

        Raises:
            TransferError: the server does not give it.
            ChangedShardError: it is another one by now.
        """
        if self._cached is None:
            self._cached = self._open_cached()
        if self._cached is None and self._at_once:
            with contextlib.suppress(CacheFullError):
                self._cached = self._download()
        if self._cached is None:
            try:
                return list(self._pool.map(lambda part: read_range(self._url, *part, expected_bytes=self._record.bytes), ranges))
            except RangesUnsupportedError:
                self._cached = self._only_way()
        return self._cached.read(ranges)

    def _open_cached(self) -> LocalFile | None:
        path = self._cache.path(self._url, self._record.sha256, self._record.bytes)
        try:
            return None if path is None else LocalFile(path, self._record.bytes)
        except FileNotFoundError:  # evicted since
            return None

    def _download(self) -> LocalFile:
        cached = None
        while cached is None:  # it may be evicted before it is open
            self._cache.fetch(self._url, self._record.sha256, self._record.bytes)
            cached = self._open_cached()
        return cached

    def _only_way(self) -> LocalFile:
        try:
            return self._download()
        except CacheFullError as error:
            raise TransferError(f"{error} And its server gives no parts of a file.") from None
