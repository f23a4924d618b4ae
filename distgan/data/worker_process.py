"""What a worker process runs: python -m distgan.data.worker_process SOCKET MEMORY SIZE SIDE CHANNELS; see worker.py."""

import signal
import sys
import traceback
from multiprocessing.connection import Connection

from distgan.data.index import Shard
from distgan.data.samples import ReadStatistics, SampleReader
from distgan.data.worker import Result, SliceShape, Slots, Task


def main(socket_descriptor: int, memory_descriptor: int, shape: SliceShape) -> None:
    """Do tasks until the socket closes."""
    for number in (signal.SIGTERM, signal.SIGINT):  # they come to the whole group, and the rank still wants to finish its step
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(socket_descriptor)
    slots = Slots(memory_descriptor, shape)
    shards: dict[int, Shard] = {}
    reader = SampleReader(shards)
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            shards.update(task.new_shards)
            result = Result(*reader.read(task.shards, task.places, slots.images[task.slot], slots.labels[task.slot]))
        except Exception:
            result = Result([], ReadStatistics(), traceback.format_exc())
        try:
            connection.send(result)
        except OSError:
            return


if __name__ == "__main__":
    first, second, *rest = map(int, sys.argv[1:])
    main(first, second, SliceShape(*rest))
