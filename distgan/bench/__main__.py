"""Measure distgan beside what plain PyTorch offers: a table, and a JSON with all figures.

python -m distgan.bench ops --out bench.json
python -m distgan.bench ops --only tiny --only forward --seconds 1
python -m distgan.bench engines --ranks 1 2 4 --config launch/recipes/digits-sngan.yaml
python -m distgan.bench data --workers 2
python -m distgan.bench damage --only "code in the data"
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from distgan.bench import damage, data, engines, goals, ops
from distgan.bench.damage import command as damage_command
from distgan.bench.data import command as data_command
from distgan.bench.engines import command
from distgan.bench.machine import Machine
from distgan.bench.measure import Row, measure
from distgan.bench.record import problems_of
from distgan.bench.report import Report
from distgan.errors import InputError
from distgan.ops import library
from distgan.process import EXIT_DONE, refuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Missed goals are printed and are no failure."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.benchmark != "engines":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    warnings.simplefilter("ignore", library.PlainPyTorchWarning)  # it is said here, above the table
    try:
        if options.benchmark == "engines":
            report = command.report(options, others)
            print(report.head(), "", report.tables(), sep="\n")
            return EXIT_DONE
        if options.benchmark == "data":
            report = data_command.report(options)
            print(report.head(), "", report.tables(), sep="\n")
            return EXIT_DONE
        if options.benchmark == "damage":
            report = damage_command.report(options)
            print(report.head(), "", report.tables(), "", report.sentences(), sep="\n")
            return EXIT_DONE
        device = _checked_device(options)
        torch.set_num_threads(options.threads)
        report = _report_on_operators(options, device)
    except InputError as error:
        return refuse(error, "distgan.bench")
    print("", report.tables(), "", goals.summary(report), sep="\n")
    return EXIT_DONE


def _report_on_operators(options: argparse.Namespace, device: torch.device) -> Report:
    rows = _chosen(list(ops.rows(device)), options.only)
    report = Report(
        benchmark=options.benchmark,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device.type,
        machine=Machine.find(),
        seconds_per_row=options.seconds,
        rows=[],
    )
    print(report.head(), library.describe(device.type), sep="\n", flush=True)
    if options.out:
        report.write(options.out)  # now, so that a path that cannot be written is refused before anything is measured
    while rows:
        row = rows.pop(0)  # nothing else holds its tensors
        print(f"{row.group}: {row.subject} ({len(rows)} rows to follow)", file=sys.stderr, flush=True)
        report = report.model_copy(update={"rows": [*report.rows, measure(row, device, options.seconds)]})
        if options.out:
            report.write(options.out)
    return report


def _chosen(rows: list[Row], substrings: list[str]) -> list[Row]:
    chosen = [part for row in rows if (part := row.only(substrings))]
    if not chosen:
        known = "; ".join(dict.fromkeys(row.group for row in rows))
        raise InputError(
            f"--only is {' and '.join(map(repr, substrings))}, which no row contains; give part of a group ({known}), size or name."
        )
    return chosen


def _checked_device(options: argparse.Namespace) -> torch.device:
    problems = problems_of(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        problems.append("--device is 'cuda', but torch finds no GPU here; leave it out or give cpu.")
    if problems:
        raise InputError(problems)
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distgan.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    operators = benchmarks.add_parser("ops", help="the operators of distgan.ops and the penalty phase", description=ops.__doc__)
    operators.add_argument("--device", choices=("cpu", "cuda"), help="where to run (default: the GPU if there is one)")
    operators.add_argument("--threads", type=int, default=2, metavar="N", help="threads of torch on the CPU (default: 2)")
    operators.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time to measure a row for, at least (default: 2)")
    operators.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only contestants with this in 'group, size, name', with the baseline and the copy beside them; several: all of them",
    )
    operators.add_argument("--out", type=Path, metavar="FILE", help="write all figures to this JSON file, after every row")
    compared = benchmarks.add_parser(
        "engines",
        help="DDP and the stages of ZeRO: images/s, exchanges, memory",
        description=engines.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_options(compared)
    images = benchmarks.add_parser("data", help="images/s beside webdataset and files", description=data.__doc__)
    data_command.add_options(images)
    damaged = benchmarks.add_parser(
        "damage", help="what webdataset and distgan make of damaged and hostile shards", description=damage.__doc__
    )
    damage_command.add_options(damaged)
    return parser


if __name__ == "__main__":
    sys.exit(main())
