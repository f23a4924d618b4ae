"""What `python -m distgan.bench engines` does: every number of ranks, then memory; in processes of their own."""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from distgan.bench import engines
from distgan.bench.engines import memory, speed
from distgan.bench.engines.contestants import ENGINES, engine_options
from distgan.bench.engines.report import EnginesReport, Speed
from distgan.bench.machine import Machine
from distgan.bench.ranks import run_ranks
from distgan.bench.record import changed_settings, problems_of
from distgan.build import check
from distgan.cli import parse_command, validate
from distgan.errors import InputError

_MEMORY_RANKS = [0, *(ranks for ranks in range(1, memory.BATCH_SIZE + 1) if memory.BATCH_SIZE % ranks == 0)]


def add_parser(benchmarks: argparse._SubParsersAction) -> None:
    """The benchmark's line among others'; what it does not know are settings of distgan.train, in `settings`."""
    parser = benchmarks.add_parser(
        "engines",
        help="DDP and the stages of ZeRO: images/s, exchanges, memory",
        description=engines.__doc__,
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of ranks to measure (default: 1 2)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch in each rank (default: 1)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="time for each number of ranks, at least (default: 20)")
    parser.add_argument(
        "--memory-ranks",
        type=int,
        default=4,
        metavar="N",
        help="ranks on which memory is measured, with two networks of ten million parameters, in a minute (default: 4; 0: it is not)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to this JSON file")
    parser.set_defaults(run=run, settings=[])


def run(options: argparse.Namespace) -> None:
    """Measure and print all of it.

    Raises:
        InputError: with a sentence for everything that is wrong, before anything is measured.
    """
    report = _measured(options)
    print(report.head(), "", report.tables(), sep="\n")


def _measured(options: argparse.Namespace) -> EnginesReport:
    config = parse_command([*options.settings, "--metrics.port", "0"]).config
    values: dict[str, Any] = json.loads(config.model_dump_json())
    _check(options, values)
    torch.set_num_threads(options.threads)  # as in each rank
    found = EnginesReport(
        benchmark="engines",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine.find(),
        device="cuda" if torch.cuda.is_available() else "cpu",
        settings=changed_settings(config),
        batch_size=config.train.batch_size,
        penalty_every=None if config.penalty.name == "none" else config.penalty.every,
        seconds=options.seconds,
        speeds=[],
        exchanges=[],
        overlaps=[],
        memory=[],
    )
    if options.out:
        found.write(options.out)  # now, so that a path that cannot be written is refused before anything is measured
    with tempfile.TemporaryDirectory(prefix="distgan-bench-") as folder:
        for ranks in sorted(options.ranks):
            print(f"{', '.join(ENGINES)} on {ranks} rank{'s' * (ranks > 1)}", file=sys.stderr, flush=True)
            directory = Path(folder, str(ranks))
            of_ranks = run_ranks(ranks, speed.measure, values, directory, options.seconds, num_threads=options.threads)
            speeds, exchanges, overlaps = of_ranks[0]
            found.speeds.extend(speeds)
            found.exchanges.extend(exchanges)
            found.overlaps.extend(overlaps)
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "100000"  # or the C library of the processes to come keeps what tensors have freed
        for engine in ENGINES if options.memory_ranks else ():
            print(f"{engine}: memory on {options.memory_ranks} ranks", file=sys.stderr, flush=True)
            found.memory.append(run_ranks(options.memory_ranks, memory.measure, engine, Path(folder, "memory", engine))[0])
    found = found.model_copy(update={"speeds": _beside_one_rank(found.speeds)})
    if options.out:
        found.write(options.out)
    return found


def _check(options: argparse.Namespace, values: dict[str, Any]) -> None:
    problems = problems_of(options)
    if len(set(options.ranks)) < len(options.ranks) or min(options.ranks) < 1:
        problems.append(f"--ranks is {' '.join(map(str, options.ranks))}; give different numbers from 1.")
    if (values["engine"]["name"], values["engine"]["zero_stage"]) != ("ddp", 0):
        problems.append("engine.name or engine.zero_stage is given, but every engine takes part; leave them out.")
    if values["precision"]["dtype"] == "fp16":
        problems.append("precision.dtype is 'fp16', in which DeepSpeed cannot take part; set it to bf16 or fp32.")
    if options.memory_ranks not in _MEMORY_RANKS:
        problems.append(
            f"--memory-ranks is {options.memory_ranks}, by which the batch of {memory.BATCH_SIZE} does not divide; "
            f"give {', '.join(map(str, _MEMORY_RANKS[:-1]))} or {_MEMORY_RANKS[-1]}."
        )
    for option, ranks in (("--ranks", max(options.ranks)), ("--memory-ranks", options.memory_ranks)):
        if torch.cuda.is_available() and ranks > torch.cuda.device_count():
            problems.append(f"{option} is {ranks}, but there are {torch.cuda.device_count()} GPUs here; give at most that.")
    if problems:
        raise InputError(problems)
    with tempfile.TemporaryDirectory(prefix="distgan-bench-") as folder:
        for ranks in options.ranks:
            for engine in ENGINES:
                check(validate(values | {"run": {"dir": str(Path(folder, "run"))}, "engine": engine_options(engine, values)}), ranks)


def _beside_one_rank(speeds: list[Speed]) -> list[Speed]:
    alone = {speed.engine: speed.images_per_second for speed in speeds if speed.ranks == 1}
    return [
        speed.model_copy(update={"times_one_rank": speed.images_per_second / alone[speed.engine]})
        if speed.ranks > 1 and speed.engine in alone
        else speed
        for speed in speeds
    ]
