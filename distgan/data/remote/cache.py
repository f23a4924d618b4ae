"""A bounded cache of whole shards on a local disk, shared by all processes of a node and by several runs.

    <key>.tar        a whole shard: it was renamed to this after its checksum and its flush to the disk
    <key>.partial    one that is being downloaded; who holds its flock owns it, and what nobody holds was left by a dead process
    .lock            held while room is made and names change

A partial file has its full size from the start, so the sizes of all files are what is used and promised together, and there is no
other book-keeping that a crash could leave wrong.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from distgan.data.remote import storage
from distgan.data.remote.storage import PATIENCE
from distgan.data.remote.transfer import ChangedShardError, Patience, shown
from distgan.errors import InputError
from distgan.files import locked, sync_directory

FILE_NAME = re.compile(r"[0-9a-f]{64}\.(tar|partial)")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # EFBIG: more than the file system or a limit of the process allows


class CacheFullError(RuntimeError):
    """There is no room for a shard, in the cache's limit or on its disk; read ranges instead."""


def cache_key(url: str, sha256: str) -> str:
    """What a shard is called in the cache; by its place and its content, without the parts of a URL that expire."""
    return hashlib.sha256(f"{shown(url)}\n{sha256}".encode()).hexdigest()


class ShardCache:
    """See the module. Everything may be called from several threads and processes at once.

    Args:
        directory: made if missing; files of other names in it are left alone and not counted.
        limit_bytes: of all files together, those that are being downloaded included.
        patience: for downloads.

    Raises:
        InputError: `directory` cannot be written.
    """

    def __init__(self, directory: Path, limit_bytes: int, patience: Patience = PATIENCE) -> None:
        self._directory, self._limit_bytes, self._patience = directory, limit_bytes, patience
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with open(self._lock, "ab"):
                pass
        except OSError as error:
            raise InputError(
                f"data.cache_dir is {str(directory)!r}, which cannot be written ({error.strerror}); set it to a directory on a local disk."
            ) from None

    @property
    def _lock(self) -> Path:
        return self._directory / ".lock"

    def path(self, url: str, sha256: str, num_bytes: int) -> Path | None:
        """The shard's file, which is now the one used last; None if it is not here.

        Another process may evict it at any moment: open it at once, and take a FileNotFoundError for None. Once open it can be read
        to the end, as Linux keeps an unlinked file for those who have it open.
        """
        path = self._directory / f"{cache_key(url, sha256)}.tar"
        try:
            if path.stat().st_size != num_bytes:
                return None
            now = time.time_ns()
            os.utime(path, ns=(now, now))  # the kernel's own "now" moves every few milliseconds only
        except FileNotFoundError:
            return None
        return path

    def fetch(self, url: str, sha256: str, num_bytes: int, keep: Container[str] = frozenset(), wait: bool = True) -> Path | None:
        """The shard's file, downloaded if it is not here; for what may happen to it then, see `path`.

        Args:
            sha256, num_bytes: of the shard, from the manifest.
            keep: keys of shards that must not be evicted for it; asked when room is made, so it may change until then.
            wait: whether to wait for another thread or process that downloads the same shard, or return None at once.

        Raises:
            CacheFullError: there is no room and nothing that may be evicted, or the disk is full.
            ChangedShardError: twice in a row, what came is not what was indexed.
            TransferError: it cannot be downloaded.
        """
        if path := self.path(url, sha256, num_bytes):
            return path
        partial = self._directory / f"{cache_key(url, sha256)}.partial"
        try:
            with _owned(partial, wait) as file:
                if file is None:
                    return None
                try:
                    if path := self.path(url, sha256, num_bytes):  # its owner before us has finished it
                        partial.unlink()
                        return path
                    self._reserve(file, num_bytes, keep)
                    self._download(url, file, sha256, num_bytes)
                    os.fsync(file.fileno())
                    with locked(self._lock):  # who sums up sizes meanwhile would see neither name
                        os.replace(partial, path := partial.with_suffix(".tar"))
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
        except OSError as error:
            if error.errno in NO_ROOM:  # met where nothing was reserved: some file systems promise more than they have
                raise self._full(num_bytes, os.strerror(error.errno)) from None
            raise
        sync_directory(self._directory)
        return path

    @contextmanager
    def incoming(self, name: str) -> Iterator[Path]:
        """A path of this name to download to, on the cache's disk but outside of its limit; removed at the end, unless adopted."""
        everything = self._directory / "incoming"
        everything.mkdir(exist_ok=True)
        with ExitStack() as stack:
            with locked(self._lock):  # or another process could find the new folder before its owner holds it
                for abandoned in everything.iterdir():
                    _remove_folder_of_the_dead(abandoned)
                own = Path(tempfile.mkdtemp(dir=everything))
                stack.callback(shutil.rmtree, own)
                fcntl.flock(stack.enter_context(open(own / ".lock", "wb")), fcntl.LOCK_EX)
            yield own / name

    def adopt(self, file: Path, url: str, sha256: str) -> None:
        """Make a whole file of `incoming` the shard's, if there is room for it without evicting another one."""
        with locked(self._lock):
            if self.used_bytes() + file.stat().st_size <= self._limit_bytes:
                os.replace(file, self._directory / f"{cache_key(url, sha256)}.tar")

    def used_bytes(self) -> int:
        """Sizes of all shards, whole or being downloaded."""
        return sum(size for _, size, _ in self._stored())

    def _stored(self) -> list[tuple[Path, int, int]]:
        """(path, bytes, nanoseconds of the last use) of each file."""
        stored = []
        for path in self._directory.iterdir():
            if FILE_NAME.fullmatch(path.name):
                try:
                    status = path.stat()
                except FileNotFoundError:  # removed since it was listed
                    continue
                stored.append((path, status.st_size, status.st_mtime_ns))
        return stored

    def _reserve(self, file: BinaryIO, num_bytes: int, keep: Container[str]) -> None:
        """Give `file`, which is ours, its full size on the disk, evicting what was used longest ago until that is possible."""
        with locked(self._lock):
            os.ftruncate(file.fileno(), 0)  # what a dead process left of it
            for path, size, _ in self._stored():
                if path.suffix == ".partial" and size > 0:
                    _remove_abandoned(path)
            stored = self._stored()
            whole = sorted((used, path, size) for path, size, used in stored if path.suffix == ".tar" and path.stem not in keep)
            evictable = deque((path, size) for _, path, size in whole)
            excess_bytes = sum(size for _, size, _ in stored) + num_bytes - self._limit_bytes
            if excess_bytes > sum(size for _, size in evictable):  # known before anything is evicted in vain
                raise self._full(num_bytes, "what else is there is still wanted")
            while excess_bytes > 0:
                excess_bytes -= _evict(evictable)
            while True:
                try:
                    os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is met here, not after gigabytes
                    return
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    os.ftruncate(file.fileno(), 0)
                    if not evictable:
                        raise self._full(num_bytes, os.strerror(error.errno)) from None
                    _evict(evictable)

    def _download(self, url: str, file: BinaryIO, sha256: str, num_bytes: int) -> None:
        for fresh in (False, True):  # a proxy on the way may hold a damaged copy
            file.seek(0)
            digest = hashlib.sha256()
            try:
                storage.download(url, file, num_bytes, digest.update, self._patience, fresh)
                if digest.hexdigest() == sha256:
                    return
            except ChangedShardError:
                if fresh:
                    raise
        raise ChangedShardError(f"{shown(url)} has changed since it was indexed: its SHA-256 is {digest.hexdigest()}, not {sha256}.")

    def _full(self, num_bytes: int, reason: str) -> CacheFullError:
        return CacheFullError(
            f"data.cache_dir {self._directory} has no room for a shard of {num_bytes} bytes: {self.used_bytes()} of "
            f"{self._limit_bytes} bytes (data.cache_gigabytes) are used, and {reason}."
        )


def _evict(evictable: deque[tuple[Path, int]]) -> int:
    """Remove the file that was used longest ago; its size. Those who have it open read on: Linux keeps it for them."""
    path, size = evictable.popleft()
    path.unlink(missing_ok=True)
    return size


def _remove_abandoned(partial: Path) -> None:
    """Remove a partial file if nobody owns it."""
    with _owned(partial, wait=False, create=False) as file:
        if file is not None:
            partial.unlink()


def _remove_folder_of_the_dead(folder: Path) -> None:
    """Remove what a process has left that died while it downloaded to `incoming`."""
    try:
        with open(folder / ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except (FileNotFoundError, BlockingIOError):  # its owner has removed it; or lives
        pass


@contextmanager
def _owned(partial: Path, wait: bool, create: bool = True) -> Iterator[BinaryIO | None]:
    """The partial file, open and locked; None if another has it and we do not wait (or it is not there and not to be created).

    The lock is on the file itself, so nothing is left of it. Its owner renames or removes it in the end; who has waited for that
    then holds a lock on a file without this name, and begins again.
    """
    while True:
        try:
            descriptor = os.open(partial, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except FileNotFoundError:
            if create:
                raise
            yield None
            return
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            try:
                if _has_name(file, partial):
                    yield file
                    return
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough while a forked child has the descriptor, too


def _has_name(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class CacheSettings:
    """Of the cache of shards; `cache` makes it."""

    directory: Path
    limit_bytes: int

    @classmethod
    def default(cls) -> "CacheSettings":
        """In the user's cache."""
        return cls(platformdirs.user_cache_path("distgan") / "shards", 50 * 10**9)

    def cache(self) -> ShardCache:
        """The cache, its directory made if missing."""
        return ShardCache(self.directory, self.limit_bytes)
