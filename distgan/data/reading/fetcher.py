"""Fills the cache of shards ahead of the plan, in a process of its own: this rank's end of it.

It only helps. A shard that is not there yet, or for which there is no room, is read by ranges meanwhile; what cannot be downloaded is
named by whoever needs it.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from distgan.data.remote.cache import CacheFullError, CacheSettings, ShardCache, cache_key
from distgan.data.remote.transfer import ChangedShardError, TransferError
from distgan.data.shards.index import Shard
from distgan.process import outlive_stop_signals

DOWNLOADS = 4  # at once


class Fetcher:
    """A process that downloads the shards that are wanted, the first ones first, and lets go of the others when room is needed."""

    def __init__(self, shards: Sequence[Shard], settings: CacheSettings) -> None:
        self._shards = shards
        self._wanted: list[int] = []
        own, its = socket.socketpair()
        with its:
            command = [sys.executable, "-m", "distgan.data.reading.fetcher", str(its.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
        self._connection = Connection(own.detach())
        self._connection.send(settings)

    def want(self, shards: list[int]) -> None:
        """These are needed next, in this order, and no others."""
        if shards == self._wanted:
            return
        self._wanted = shards
        with contextlib.suppress(OSError):  # it was killed: reading goes on by ranges
            self._connection.send([self._shards[number] for number in shards])

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class _Wanted:
    """What is wanted now; the cache asks for its keys, threads for the next shard of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[Shard] = []
        self._keys: frozenset[str] = frozenset()
        self._full = False

    def replace(self, shards: list[Shard]) -> None:
        with self._changed:
            self._queue = list(shards)
            self._keys = frozenset(cache_key(shard.location, shard.record.sha256) for shard in shards)
            self._full = False
            self._changed.notify_all()

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def next(self) -> Shard:
        """The most urgent shard that no thread has begun with; waits for one."""
        with self._changed:
            while self._full or not self._queue:
                self._changed.wait()
            return self._queue.pop(0)

    def stop(self) -> bool:
        """There is no room for more of what is wanted now; whether that is new."""
        with self._changed:
            was_full, self._full = self._full, True
            return not was_full


def _fetch(wanted: _Wanted, cache: ShardCache) -> None:
    has_said = False
    while True:
        shard = wanted.next()
        try:
            cache.fetch(shard.location, shard.record.sha256, shard.record.bytes, wanted, wait=False)
        except CacheFullError as error:
            if wanted.stop() and not has_said:
                has_said = True
                print(f"warning: {error} What is not in it is read sample by sample.", file=sys.stderr, flush=True)
        except (TransferError, ChangedShardError) as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)


def main(socket_descriptor: int) -> None:
    """Fetch what is wanted until the socket closes."""
    outlive_stop_signals()
    connection = Connection(socket_descriptor)
    try:
        settings: CacheSettings = connection.recv()
        cache, wanted = settings.cache(), _Wanted()
        for _ in range(DOWNLOADS):
            threading.Thread(target=_fetch, args=(wanted, cache), daemon=True).start()
        while True:
            wanted.replace(connection.recv())
    except (EOFError, OSError):
        os._exit(0)  # not waiting for downloads; the next process removes what they leave


if __name__ == "__main__":
    main(int(sys.argv[1]))
