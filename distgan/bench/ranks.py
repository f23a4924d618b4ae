"""Running a function on several ranks of this machine, in processes of their own."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.multiprocessing.spawn import start_processes

from distgan.distributed import World
from distgan.process import leave

TIMEOUT_SECONDS = 120.0  # for which a rank waits for the others


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, num_threads: int = 1, start_method: str = "spawn"
) -> list[Any]:
    """Call `function(world, *arguments)` on `world_size` new processes in one process group; the results by rank.

    Args:
        function: at the top of a module, as the processes import it; so are its arguments and results pickled.
        num_threads: of torch in each process.
        start_method: of multiprocessing.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the first rank that failed.
    """
    results = torch.multiprocessing.get_context(start_method).Manager().dict()
    given = world_size, free_port(), results, dict(os.environ), num_threads, function, arguments
    start_processes(_main, given, nprocs=world_size, start_method=start_method)
    return [results[rank] for rank in range(world_size)]


def meet(world: World) -> None:
    """Wait for the device and for the other ranks. Collective."""
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def _main(
    rank: int,
    world_size: int,
    port: int,
    results: Any,
    environment: dict[str, str],
    num_threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()  # a process that is forked from a server has that one's
    os.environ |= environment | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(num_threads)
    world = World.from_environment()
    with world.process_group(TIMEOUT_SECONDS, TIMEOUT_SECONDS, even_alone=True):
        results[rank] = function(world, *arguments)
    leave(0)
