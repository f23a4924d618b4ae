"""A process that reads and decodes for one rank: the rank's end of it, and what goes between the two.

Decoding keeps the interpreter busy; in threads it would keep the training loop from launching its work. A worker (worker_process.py)
imports no torch and starts in a fraction of a second. It decodes into memory that it shares with its rank (a memfd, which the size of
/dev/shm does not limit); over a socket go the tasks and what became of them. It ends when its rank does, however that ends: the socket
closes.
"""

import math
import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distgan.data.reading.samples import Problem, ReadStatistics
from distgan.data.shards.index import Shard
from distgan.errors import RunError

if TYPE_CHECKING:
    from distgan.data.remote.cache import CacheSettings

DEPTH = 3  # tasks that a worker has before it: the one it works at, and what it goes on with
MAX_RESTARTS = 3  # of a worker that was killed


class SliceShape(NamedTuple):
    """Of the images of one task."""

    size: int
    side: int
    channels: int

    @property
    def images(self) -> tuple[int, int, int, int]:
        """[size, side, side, channels]."""
        return self.size, self.side, self.side, self.channels


class Task(NamedTuple):
    """Samples to read into a slot of the shared memory."""

    slot: int
    shards: np.ndarray  # [size] int64
    places: np.ndarray  # [size] int64
    new_shards: dict[int, Shard]  # those that this worker has not heard of yet


class Result(NamedTuple):
    """What became of a task."""

    problems: list[Problem]
    statistics: ReadStatistics
    failure: str | None = None  # of a server: a sentence
    crash: str | None = None  # the traceback of what only a bug can do


class Setup(NamedTuple):
    """What a worker is told first."""

    shape: SliceShape
    cache: "CacheSettings | None"
    fetch: bool


class Slots:
    """DEPTH places for a task's images and labels in shared memory."""

    def __init__(self, descriptor: int, shape: SliceShape) -> None:
        image_bytes = math.prod(shape.images)
        label_start = -(-image_bytes // 64) * 64
        slot_bytes = label_start + -(-8 * shape.size // 64) * 64
        os.ftruncate(descriptor, DEPTH * slot_bytes)
        memory = np.frombuffer(mmap.mmap(descriptor, DEPTH * slot_bytes), np.uint8).reshape(DEPTH, slot_bytes)
        self.images = memory[:, :image_bytes].reshape(DEPTH, *shape.images)
        self.labels = memory[:, label_start : label_start + 8 * shape.size].view(np.int64)


class WorkerDiedError(RunError):
    """A worker was killed more often than one can put up with."""


class Worker:
    """A worker process. Its results come in the order of its tasks; if it is killed, another one takes its place and its tasks.

    Args:
        shape: of each task's images.
        shards: those that tasks may ask for, by their numbers.
        cache, fetch: see `SampleReader`.
    """

    def __init__(self, shape: SliceShape, shards: Sequence[Shard], cache: "CacheSettings | None" = None, fetch: bool = True) -> None:
        self._setup, self._shards = Setup(shape, cache, fetch), shards
        self._memory = os.memfd_create("distgan-worker")
        self._slots = Slots(self._memory, shape)
        self._tasks: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self._next_slot = 0
        self._num_restarts = 0
        self._start()

    def submit(self, shards: np.ndarray, places: np.ndarray) -> None:
        """One more task; at most DEPTH may be under way, the last one taken included."""
        task = (self._next_slot, shards, places)
        self._next_slot = (self._next_slot + 1) % DEPTH
        self._tasks.append(task)
        try:
            self._send(*task)
        except OSError:
            self._restart()

    def take(self) -> tuple[np.ndarray, np.ndarray, Result]:
        """Images [size, side, side, C], labels [size] and outcome of the oldest task; the arrays are good until the next `submit`.

        Raises:
            RunError: a server fails; WorkerDiedError: workers keep being killed.
        """
        while True:
            try:
                result: Result = self._connection.recv()
                break
            except (EOFError, OSError):
                self._restart()
        slot, _, _ = self._tasks.popleft()
        if result.failure is not None:
            raise RunError(result.failure)
        if result.crash is not None:
            raise RuntimeError(f"A worker that reads images failed:\n{result.crash}")
        return self._slots.images[slot], self._slots.labels[slot], result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        os.close(self._memory)

    def _start(self) -> None:
        own, its = socket.socketpair()
        command = [sys.executable, "-m", "distgan.data.reading.worker_process", str(its.fileno()), str(self._memory)]
        with its:
            self._process = subprocess.Popen(command, pass_fds=[its.fileno(), self._memory], stdin=subprocess.DEVNULL)
        self._connection = Connection(own.detach())
        self._connection.send(self._setup)
        self._known: set[int] = set()

    def _send(self, slot: int, shards: np.ndarray, places: np.ndarray) -> None:
        new = {number: self._shards[number] for number in set(shards.tolist()) - self._known}
        self._known |= new.keys()
        self._connection.send(Task(slot, shards, places, new))

    def _restart(self) -> None:
        """Begin again with what is not done yet; a task gives the same whoever does it."""
        self._connection.close()
        self._process.kill()
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        self._num_restarts += 1
        if self._num_restarts > MAX_RESTARTS:
            raise WorkerDiedError(
                f"A worker that reads images ended {how}, for the {self._num_restarts}th time. If the kernel killed it for want of memory, "
                "set data.num_workers lower, or data.num_workers to 0 to read without workers."
            )
        print(f"warning: a worker that reads images ended {how}; another one takes its place.", file=sys.stderr, flush=True)
        self._start()
        try:
            for task in self._tasks:
                self._send(*task)
        except OSError:
            self._restart()
