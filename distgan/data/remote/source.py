"""The bytes of an open shard that lies elsewhere: from the cache as soon as it is there, by ranges until then."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from distgan.data.index import Shard
from distgan.data.local_file import LocalFile, Range
from distgan.data.remote.cache import CacheFullError, ShardCache
from distgan.data.remote.shards import CacheSettings
from distgan.data.remote.storage import read_range
from distgan.data.remote.transfer import RangesUnsupportedError, TransferError

REQUESTS = 16  # at once, of a process


class RemoteSources:
    """Opens remote shards for one process."""

    def __init__(self, settings: CacheSettings) -> None:
        self._cache = settings.cache()
        self._pool = ThreadPoolExecutor(REQUESTS)

    def open(self, shard: Shard) -> "RemoteFile":
        """A shard to read from."""
        return RemoteFile(shard, self._cache, self._pool)


class RemoteFile:
    """A shard that is read by ranges as long as the cache has not got it. Others fill the cache."""

    def __init__(self, shard: Shard, cache: ShardCache, pool: ThreadPoolExecutor) -> None:
        self._url, self._record = shard.location, shard.record
        self._cache, self._pool = cache, pool
        self._cached: LocalFile | None = None

    @property
    def is_cached(self) -> bool:
        """Whether the last read came from the cache."""
        return self._cached is not None

    def read(self, ranges: list[Range]) -> Iterable[bytes | None]:
        """As `LocalFile.read`.

        Raises:
            TransferError: the server does not give it.
        """
        if self._cached is None:
            self._cached = self._open_cached()
        if self._cached is None:
            try:
                return list(self._pool.map(lambda part: read_range(self._url, *part), ranges))
            except RangesUnsupportedError:
                self._cached = self._download()
        return self._cached.read(ranges)

    def _open_cached(self) -> LocalFile | None:
        path = self._cache.path(self._url, self._record.sha256, self._record.bytes)
        try:
            return None if path is None else LocalFile(path, self._record.bytes)
        except FileNotFoundError:  # evicted since
            return None

    def _download(self) -> LocalFile:
        """The whole shard: there is no other way."""
        cached = None
        while cached is None:
            try:
                self._cache.fetch(self._url, self._record.sha256, self._record.bytes)
            except CacheFullError as error:
                raise TransferError(f"{error} And its server gives no parts of a file.") from None
            cached = self._open_cached()
        return cached
