"""What `python -m distgan.bench ops` does: row after row, and whether the goals are reached."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from distgan.bench import goals, ops
from distgan.bench.machine import Machine
from distgan.bench.measure import Row, measure
from distgan.bench.record import problems_of
from distgan.bench.report import Report
from distgan.errors import InputError
from distgan.ops import library


def add_parser(benchmarks: argparse._SubParsersAction) -> None:
    """The benchmark's line among others'."""
    parser = benchmarks.add_parser("ops", help="the operators of distgan.ops and the penalty phase", description=ops.__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to run (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of torch on the CPU (default: 2)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time to measure a row for, at least (default: 2)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only contestants with this in 'group, size, name', with the baseline and the copy beside them; several: all of them",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to this JSON file, after every row")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print all of it.

    Raises:
        InputError: an option cannot be.
    """
    device = _checked_device(options)
    torch.set_num_threads(options.threads)
    rows = _chosen(list(ops.rows(device)), options.only)
    report = Report(
        benchmark="ops",
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
    print("", report.tables(), "", goals.summary(report), sep="\n")


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
