"""Samples/s of the contestants in turns, and what a training run waits."""

import contextlib
import math
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from distgan.bench.data.contestants import BASELINE, CONTESTANTS, Batches
from distgan.bench.data.report import Throughput, Waiting
from distgan.bench.data.sets import ImageSet
from distgan.bench.measure import MIN_ROUNDS
from distgan.build import built_trainer, check
from distgan.cli import validate
from distgan.data.reading.worker import DEPTH
from distgan.distributed import World
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Traffic

TURN_SECONDS = 1.0
_WARM_UP_ITERATIONS = 20


def throughputs(images: ImageSet, names: Sequence[str], batch_size: int, num_workers: int, seconds: float, source: str) -> list[Throughput]:
    """The contestants of these names, `seconds` each at least, in turns.

    A turn begins with what was read ahead while others had theirs; that is not counted.
    """
    with ExitStack() as stack:
        batches = {name: stack.enter_context(CONTESTANTS[name](images, batch_size, num_workers)) for name in names}
        _check(images, batches)
        rates: dict[str, list[float]] = {name: [] for name in names}
        costs: dict[str, list[float]] = {name: [] for name in names}
        turn_seconds = min(TURN_SECONDS, seconds / MIN_ROUNDS)
        order, shuffle = list(names), random.Random(0).shuffle  # noqa: S311 - an order of measuring, no secret
        for _ in range(math.ceil(seconds / turn_seconds)):
            shuffle(order)
            for name in order:
                for _ in range((DEPTH + 1) * max(num_workers, 1)):  # more than anybody reads ahead
                    next(batches[name])
                rate, cost = _turn(batches[name], batch_size, turn_seconds)
                rates[name].append(rate)
                costs[name].append(cost)
    return _summary(images, source, rates, costs)


def epochs(images: ImageSet, names: Sequence[str], batch_size: int, num_workers: int, source: str) -> list[Throughput]:
    """As many images as the set has, from nothing but a manifest to the last batch, start of the processes included; in turns."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    order, shuffle = list(names), random.Random(0).shuffle  # noqa: S311 - an order of measuring, no secret
    for _ in range(MIN_ROUNDS):
        shuffle(order)
        for name in order:
            begin_cpu, begin, count = _cpu_seconds(), time.perf_counter(), 0
            with CONTESTANTS[name](images, batch_size, num_workers) as batches:
                while count < images.num_images:
                    next(batches)
                    count += batch_size
                rates[name].append(count / (time.perf_counter() - begin))
                costs[name].append((_cpu_seconds() - begin_cpu) / count)
            del batches
    return _summary(images, source, rates, costs)


def _summary(images: ImageSet, source: str, rates: dict[str, list[float]], costs: dict[str, list[float]]) -> list[Throughput]:
    medians = {name: statistics.median(of_one) for name, of_one in rates.items()}
    found = []
    for name in rates:
        lower, _, upper = statistics.quantiles(rates[name], n=4, method="inclusive")
        found.append(
            Throughput(
                images=images.name,
                source=source,
                contestant=name,
                samples_per_second=medians[name],
                quartiles=(lower, upper),
                num_turns=len(rates[name]),
                times_webdataset=medians[name] / medians[BASELINE],
                cpu_microseconds=1e6 * statistics.median(costs[name]),
            )
        )
    return found


def _turn(batches: Batches, batch_size: int, seconds: float) -> tuple[float, float]:
    """Samples/s, and CPU seconds a sample: nobody else's processes are at work."""
    begin_cpu, begin, elapsed, count = _cpu_seconds(), time.perf_counter(), 0.0, 0
    while elapsed < seconds:
        next(batches)
        count += batch_size
        elapsed = time.perf_counter() - begin
    return count / elapsed, (_cpu_seconds() - begin_cpu) / count


def _cpu_seconds() -> float:
    """Of this process and all that it has started; of those that have ended (webdataset's curl) if somebody has waited for them."""
    own, seconds = psutil.Process(), 0.0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            seconds += sum(process.cpu_times()[:4])
    return seconds


def _check(images: ImageSet, batches: dict[str, Batches]) -> None:
    """Every contestant has to give images of the set with their labels."""
    known = images.known()
    for name, of_one in batches.items():
        pixels, labels = next(of_one)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            assert known[image.contiguous().numpy().tobytes()] == label, f"{name} gives an image that is not of the set"


def waiting(world: World, directory: Path, seconds: float) -> Waiting:
    """Train with the default recipe. Collective, `bench.ranks.run_ranks` calls it."""
    config = validate({"run": {"dir": str(directory)}, "metrics": {"port": 0}})
    preflight = check(config, world.size)
    Path(config.run.dir, "samples").mkdir(parents=True, exist_ok=True)
    with Traffic().counting() as traffic, built_trainer(config, world, preflight, Exporter(restarts=0), traffic) as trainer:
        for _ in range(_WARM_UP_ITERATIONS):
            trainer.iterate()
        trainer.feed.reader.take_statistics()
        begin, iterations, is_over = time.perf_counter(), 0, 0
        while not is_over:
            trainer.iterate()
            iterations += 1
            is_over = world.broadcast_integer(int(time.perf_counter() - begin > seconds))
        elapsed = time.perf_counter() - begin
        share = trainer.feed.reader.take_statistics().wait_seconds / elapsed
    shares = world.gather([share])
    return Waiting(
        ranks=world.size,
        images_per_second=iterations * config.train.batch_size / elapsed,
        share=max(of_rank[0] for of_rank in shares),
    )
