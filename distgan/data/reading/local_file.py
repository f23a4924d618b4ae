"""The bytes of an open shard on this machine.

Read with pread, not through a mapping: a shard that shrinks under a mapping kills the process with SIGBUS, here it is an error with a name.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

Range = tuple[int, int]  # offset, bytes


class ShardFile(Protocol):
    """What samples are read from."""

    @property
    def is_cached(self) -> bool | None:
        """Whether the last read came from the cache of remote shards; None: the shard is a local one."""
        ...

    def read(self, ranges: list[Range]) -> Iterable[bytes | None]:
        """The bytes of each range: fewer where the shard has become shorter, None where it cannot be read at all."""
        ...


class LocalFile:
    """A descriptor, closed when nobody reads from it any more.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not of `num_bytes` bytes.
    """

    is_cached = None

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        if os.fstat(self._descriptor).st_size != num_bytes:
            raise ValueError("the shard has another size")

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, ranges: list[Range]) -> Iterator[bytes | None]:
        """As `ShardFile.read`, one after the other as they are asked for."""
        for offset, num_bytes in ranges:
            try:
                payload = os.pread(self._descriptor, num_bytes, offset)
            except OSError:
                payload = None
            yield payload
