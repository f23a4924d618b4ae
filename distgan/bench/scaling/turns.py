"""Trainers on different numbers of ranks that take turns: each number has processes of its own, of which one group runs at a time."""

import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing

from distgan.bench.engines.contestants import trainer_under
from distgan.bench.engines.report import BASELINE
from distgan.bench.ranks import meet, run_ranks
from distgan.bench.scaling.timing import Timed, Turn
from distgan.distributed import World
from distgan.metrics.traffic import Traffic

_LOOK_SECONDS = 1.0


class _Turn(NamedTuple):
    """An order: let the trainer of this global batch train for so many periods of its penalties."""

    batch: int
    periods: int


class _Call(NamedTuple):
    """An order: call `function(world, *arguments)`, which is at the top of a module."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Group:
    """Processes in which trainers of several global batches wait for their turns."""

    def __init__(self, orders: Sequence[Any], results: Any, future: Future, turn_seconds: float) -> None:
        self._orders, self._results, self._future, self._turn_seconds = orders, results, future, turn_seconds
        self._periods: dict[int, int] = {}

    def ready(self) -> None:
        """Wait until its trainers are built."""
        self._result()

    def begin(self, batch: int) -> None:
        """Let the trainer of this global batch have its turn."""
        self._order(_Turn(batch, self._periods.get(batch, 1)))

    def end(self, batch: int) -> Turn:
        """What the turn that began gave."""
        turn = self._result()
        period_seconds = turn.seconds / self._periods.get(batch, 1)
        self._periods[batch] = max(1, math.ceil(self._turn_seconds / period_seconds))
        return turn

    def turn(self, batch: int) -> Turn:
        """A whole turn."""
        self.begin(batch)
        return self.end(batch)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(world, *arguments)` gives on rank 0; all ranks call it."""
        self._order(_Call(function, arguments))
        return self._result()

    def leave(self) -> None:
        """Let the processes end after what they do now."""
        self._order(None)

    def _order(self, order: _Turn | _Call | None) -> None:
        for of_rank in self._orders:
            of_rank.put(order)

    def _result(self) -> Any:
        while True:
            try:
                return self._results.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._future.done():
                    self._future.result()  # raises what ended it
                    raise


@contextmanager
def groups(
    settings: dict[str, Any], directory: Path, batches: Mapping[str, tuple[int, Sequence[int]]], num_threads: int, turn_seconds: float
) -> Iterator[dict[str, Group]]:
    """Groups by name, each of so many ranks with trainers of these global batches, all of them built and ready. A turn takes
    `turn_seconds` at least.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of a rank that failed.
    """
    with torch.multiprocessing.get_context("spawn").Manager() as manager, ThreadPoolExecutor(len(batches)) as pool:
        made: dict[str, Group] = {}
        try:
            for name, (world_size, of_group) in batches.items():
                orders, results = [manager.Queue() for _ in range(world_size)], manager.Queue()
                arguments = (settings, directory / name, list(of_group), orders, results)
                future = pool.submit(run_ranks, world_size, serve, *arguments, num_threads=num_threads)
                made[name] = Group(orders, results, future, turn_seconds)
            for group in made.values():
                group.ready()
            yield made
        finally:
            for group in made.values():
                group.leave()


def serve(world: World, settings: dict[str, Any], directory: Path, batches: Sequence[int], orders: Sequence[Any], results: Any) -> None:
    """Build the trainers and do what is ordered until that is to end. Collective, `bench.ranks.run_ranks` calls it."""
    with ExitStack() as stack:
        trainers: dict[int, Timed] = {}
        for batch in batches:
            with_batch = settings | {"train": settings["train"] | {"batch_size": batch}}
            trainer = stack.enter_context(trainer_under(BASELINE, with_batch, world, directory / str(batch), Traffic()))
            trainers[batch] = Timed(trainer)
        if world.is_main:
            results.put(None)
        while (order := orders[world.rank].get()) is not None:
            result = _taken(world, trainers[order.batch], order) if isinstance(order, _Turn) else order.function(world, *order.arguments)
            if world.is_main:
                results.put(result)
            dist.barrier()  # nobody looks for an order while rank 0 still works


def _taken(world: World, trainer: Timed, turn: _Turn) -> Turn:
    meet(world)
    begin = time.perf_counter()
    names = trainer.run(turn.periods)
    meet(world)
    return trainer.turn(time.perf_counter() - begin, names)
