"""What a worker process runs: python -m distgan.data.reading.worker_process SOCKET MEMORY; see worker.py."""

import sys
import traceback
from multiprocessing.connection import Connection

from distgan.data.reading.samples import ReadStatistics, SampleReader
from distgan.data.reading.worker import Result, Setup, Slots, Task
from distgan.data.shards.index import Shard
from distgan.errors import RunError
from distgan.process import outlive_stop_signals


def main(socket_descriptor: int, memory_descriptor: int) -> None:
    """Do tasks until the socket closes."""
    outlive_stop_signals()
    connection = Connection(socket_descriptor)
    setup: Setup = connection.recv()
    slots = Slots(memory_descriptor, setup.shape)
    shards: dict[int, Shard] = {}
    reader = SampleReader(shards, setup.cache, setup.fetch)
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            shards.update(task.new_shards)
            result = Result(*reader.read(task.shards, task.places, slots.images[task.slot], slots.labels[task.slot]))
        except RunError as error:
            result = Result([], ReadStatistics(), failure=str(error))
        except Exception:
            result = Result([], ReadStatistics(), crash=traceback.format_exc())
        try:
            connection.send(result)
        except OSError:
            return


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
