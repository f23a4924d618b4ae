"""What `python -m distgan.bench scaling` does: turns of one rank and of several, then everything beside them, in processes of their own."""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from distgan.bench import scaling
from distgan.bench.machine import Machine
from distgan.bench.measure import MIN_ROUNDS
from distgan.bench.ranks import run_ranks
from distgan.bench.record import BenchmarkRun, changed_settings, problems_of
from distgan.bench.scaling import costs, exchange, prediction
from distgan.bench.scaling.report import AllReduce, BatchPoint, Costs, Network, NetworkCount, ScalingReport, Speed
from distgan.bench.scaling.timing import Turn, point_of
from distgan.bench.scaling.turns import Group, groups
from distgan.build import check
from distgan.cli import parse_command, validate
from distgan.config import TrainConfig
from distgan.data.reading.samples import ReadStatistics
from distgan.data.shards.manifest import Manifest
from distgan.errors import InputError

ALONE, BESIDE = "alone", "beside"  # groups of one rank
_COUNTED_RANKS = 2
_TURN_SECONDS = 0.5  # so that readers do not only give what they had ready


def add_parser(benchmarks: argparse._SubParsersAction) -> None:
    """The benchmark's line among others'; what it does not know are settings of distgan.train, in `settings`."""
    parser = benchmarks.add_parser(
        "scaling",
        help="what distgan.launch plan needs to know of a device, and whether its model is right here",
        description=scaling.__doc__,
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of ranks to measure (default: 1 2)")
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        metavar="N",
        help="images a step of one rank to measure as well (default: an eighth, a quarter and half of train.batch_size)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch in each rank (default: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="time for all turns together, at least (default: 60)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to this JSON file")
    parser.set_defaults(run=run, settings=[])


def run(options: argparse.Namespace) -> None:
    """Measure and print all of it.

    Raises:
        InputError: with a sentence for everything that is wrong, before anything is measured.
    """
    report = _measured(options)
    print(report.head(), "", report.tables(), sep="\n")


@dataclass(frozen=True)
class _Task:
    """What is to be measured."""

    config: TrainConfig
    settings: dict[str, Any]  # the same, nested
    manifest: Manifest
    ranks: list[int]  # more than one
    batches: list[int]  # of one rank
    seconds: float
    threads: int

    @property
    def batch_size(self) -> int:
        return self.config.train.batch_size


def _measured(options: argparse.Namespace) -> ScalingReport:
    task = _checked(options)
    torch.set_num_threads(options.threads)  # as in each rank
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = {"benchmark": "scaling", "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device, "machine": Machine.find()}
    if options.out:
        BenchmarkRun(**run).write(options.out)  # now, so that a path that cannot be written is refused before anything is measured
    with tempfile.TemporaryDirectory(prefix="distgan-bench-") as folder:
        directory = Path(folder)
        plan = _plan(task, device)
        _say(f"trainers on {' and '.join(map(str, [1, *task.ranks]))} ranks take turns")
        turn_seconds = min(_TURN_SECONDS, task.seconds / MIN_ROUNDS / sum(len(batches) for _, batches in plan.values()))
        with groups(task.settings, directory / "turns", plan, task.threads, turn_seconds) as made:
            turns = _turns(task, plan, made)
            _say("what comes beside the iterations, and what ranks exchange")
            one: costs.OneRank = made[ALONE].call(costs.measure, task.settings, task.config.metrics.num_sample_images, directory / "one")
            counted, all_reduces = _exchanges(task, made, directory / "exchanges")
        start_seconds = costs.start_seconds(task.config, one, directory, task.threads)
    points = [point_of(batch, turns[ALONE, batch]) for batch in task.batches]
    (whole,) = [point for point in points if point.batch == task.batch_size]
    found = ScalingReport(
        **run,
        settings=task.settings,
        changed=changed_settings(task.config),
        seconds=task.seconds,
        points=points,
        networks=[_network(name, one, counted, whole) for name in exchange.NETWORKS],
        all_reduces=all_reduces,
        costs=_costs(task, one, counted, start_seconds, turns),
        speeds=_speeds(task, turns),
        beside=_times_beside(task, turns),
        checks=[],
    )
    found = found.model_copy(update={"checks": prediction.checks(found)})
    if options.out:
        found.write(options.out)
    return found


def _checked(options: argparse.Namespace) -> _Task:
    config = parse_command([*options.settings, "--metrics.port", "0"]).config
    settings: dict[str, Any] = json.loads(config.model_dump_json())
    problems = problems_of(options)
    if len(set(options.ranks)) < len(options.ranks) or min(options.ranks) < 1 or 1 not in options.ranks:
        problems.append(f"--ranks is {' '.join(map(str, options.ranks))}; give different numbers from 1, and 1 among them.")
    if changed := [field for field in changed_settings(config) if field.startswith("engine.")]:
        problems.append(f"{changed[0]} is given, but the engine is DDP, from which the plan derives the others; leave it out.")
    if config.data.mode == "stream":
        problems.append("data.mode is 'stream', of which nobody knows how large its samples are; measure with data.mode indexed.")
    if torch.cuda.is_available() and max(options.ranks) > torch.cuda.device_count():
        problems.append(f"--ranks is {max(options.ranks)}, but there are {torch.cuda.device_count()} GPUs here; give at most that.")
    size = config.train.batch_size
    asked = options.batches or [size // part for part in (8, 4, 2)]
    batches = sorted({batch for batch in [*asked, *(size // ranks for ranks in options.ranks)] if batch > 0 or options.batches})
    if batches[0] < 1 or len(batches) < 2:
        given = f"--batches is {' '.join(map(str, options.batches))}" if options.batches else f"train.batch_size is {size}"
        problems.append(f"{given}, with which one rank has no two different batches of an image or more; give others.")
    if problems:
        raise InputError(problems)
    several = sorted(ranks for ranks in options.ranks if ranks > 1)
    runs = [(max(batches), 1), (size, _COUNTED_RANKS), *((times * size, ranks) for ranks in several for times in (1, ranks))]
    preflight = None
    with tempfile.TemporaryDirectory(prefix="distgan-bench-") as folder:
        for batch, ranks in runs:
            values = settings | {"run": {"dir": str(Path(folder, "run"))}, "train": settings["train"] | {"batch_size": batch}}
            preflight = check(validate(values), ranks)
    assert preflight is not None
    assert preflight.manifest is not None
    return _Task(config, settings, preflight.manifest, several, batches, options.seconds, options.threads)


def _plan(task: _Task, device: str) -> dict[str, tuple[int, list[int]]]:
    """The groups: on how many ranks, with which global batches. On a CPU, whose cores share its memory, also one beside another."""
    plan = {ALONE: (1, task.batches)}
    plan |= {str(ranks): (ranks, [task.batch_size, ranks * task.batch_size]) for ranks in task.ranks}
    if device == "cpu" and task.ranks:
        plan[BESIDE] = (1, [_beside_batch(task)])
    return plan


def _turns(task: _Task, plan: dict[str, tuple[int, list[int]]], made: dict[str, Group]) -> dict[tuple[str, int], list[Turn]]:
    """Of every group and global batch; the beside group's are of when both it and the one that is otherwise alone trained."""
    found: dict[tuple[str, int], list[Turn]] = {}
    order = [(name, batch) for name, (_, batches) in plan.items() for batch in batches]
    for one in order:
        _turn(made, *one)  # what is made at first use
    spent, shuffle = 0.0, random.Random(0).shuffle  # noqa: S311 - an order of measuring, no secret
    while spent < task.seconds or len(found[order[0]]) < MIN_ROUNDS:
        shuffle(order)
        for one in order:
            turn = _turn(made, *one)
            spent += turn.seconds
            found.setdefault(one, []).append(turn)
    return found


def _turn(made: dict[str, Group], name: str, batch: int) -> Turn:
    if name != BESIDE:
        return made[name].turn(batch)
    made[ALONE].begin(batch)
    turn = made[BESIDE].turn(batch)
    made[ALONE].end(batch)
    return turn


def _beside_batch(task: _Task) -> int:
    return task.batch_size // task.ranks[0]


def _exchanges(task: _Task, made: dict[str, Group], directory: Path) -> tuple[exchange.Counted, list[AllReduce]]:
    """Where ranks do not take turns on two devices, what two exchange is counted on CPUs: it is the same."""
    results = [
        made[str(ranks)].call(exchange.measure, task.settings, directory / str(ranks), ranks == _COUNTED_RANKS) for ranks in task.ranks
    ]
    if _COUNTED_RANKS not in task.ranks:
        with _without_gpus():
            results += run_ranks(_COUNTED_RANKS, exchange.measure, task.settings, directory, True, num_threads=task.threads)[:1]
    (counted,) = [counted for counted, _ in results if counted is not None]
    return counted, [one for _, of_ranks in results for one in of_ranks]


@contextmanager
def _without_gpus() -> Iterator[None]:
    """Processes that are started within this see none."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _network(name: Network, one: costs.OneRank, counted: exchange.Counted, point: BatchPoint) -> NetworkCount:
    """`point` is of the batch with which `one` was measured."""
    parameters, tensors, buffer_bytes = one.sizes[name]
    exchanged = counted.networks[name]
    return NetworkCount(
        network=name,
        parameters=parameters,
        tensors=tensors,
        buffer_bytes=buffer_bytes,
        bucket_bytes=exchanged.bucket_bytes,
        small_exchanges=exchanged.small_exchanges,
        small_bytes=exchanged.small_bytes,
        backward_share=min(1.0, one.backward_seconds[name] / getattr(point, name)),
    )


def _costs(
    task: _Task, one: costs.OneRank, counted: exchange.Counted, start_seconds: float, turns: dict[tuple[str, int], list[Turn]]
) -> Costs:
    read = ReadStatistics()
    for (group, _), of_one in turns.items():
        for turn in of_one if group == ALONE else []:
            read += turn.read
    shards = task.manifest.shards
    return Costs(
        draw_seconds_per_image=one.draw_seconds_per_image,
        checkpoint_bytes=one.checkpoint_bytes,
        checkpoint_tensor_bytes=one.checkpoint_tensor_bytes,
        checkpoint_seconds=one.checkpoint_seconds,
        start_seconds=start_seconds,
        grid_seconds=one.grid_seconds,
        log_line_seconds=counted.log_line_seconds,
        log_line_rounds=counted.log_line_rounds,
        vote_rounds=counted.vote_rounds,
        bytes_per_sample=sum(shard.record.bytes for shard in shards) / task.manifest.num_samples,
        read_seconds_per_sample=(read.read_seconds + read.decode_seconds) / max(read.samples, 1),
        samples=task.manifest.num_samples,
    )


def _speeds(task: _Task, turns: dict[tuple[str, int], list[Turn]]) -> list[Speed]:
    """Of the batches that are compared."""
    compared = [(ALONE, 1, task.batch_size)]
    compared += [(str(ranks), ranks, times * task.batch_size) for ranks in task.ranks for times in (1, ranks)]
    found = []
    for group, ranks, batch in compared:
        seconds = [turn.seconds_per_iteration for turn in turns[group, batch]]
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        found.append(
            Speed(
                ranks=ranks,
                batch=batch,
                median_ms=1000 * median,
                quartiles_ms=(1000 * lower, 1000 * upper),
                num_samples=len(seconds),
                images_per_second=batch * task.config.train.discriminator_steps / median,
            )
        )
    return found


def _times_beside(task: _Task, turns: dict[tuple[str, int], list[Turn]]) -> float | None:
    batch = _beside_batch(task) if task.ranks else 0
    if (BESIDE, batch) not in turns:
        return None
    together, alone = (statistics.median(turn.seconds_per_iteration for turn in turns[group, batch]) for group in (BESIDE, ALONE))
    return together / alone


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
