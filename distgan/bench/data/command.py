"""What `python -m distgan.bench data` does."""

import argparse
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from distgan.bench import data
from distgan.bench.data import speed
from distgan.bench.data.contestants import CONTESTANTS, FILES
from distgan.bench.data.report import DataReport, Throughput
from distgan.bench.data.server import serving
from distgan.bench.data.sets import ImageSet, image_sets
from distgan.bench.machine import Machine
from distgan.bench.ranks import run_ranks
from distgan.data.shards.manifest import open_manifest
from distgan.errors import InputError


def add_parser(benchmarks: argparse._SubParsersAction) -> None:
    """The benchmark's line among others'."""
    parser = benchmarks.add_parser("data", help="images/s beside webdataset and files", description=data.__doc__)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes of each contestant (default: 2)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a batch (default: 64)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="time for each contestant and set (default: 10)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="size of the sets; 1 is 20,000 and 4,000 images (default: 1)")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks of the training run that waits (default: 2; 0: none)")
    parser.add_argument(
        "--latency-ms", type=float, metavar="MS", help="also read over HTTP from a server on loopback that answers so much later"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to this JSON file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print all of it.

    Raises:
        InputError: an option cannot be.
    """
    report = _measured(options)
    print(report.head(), "", report.tables(), sep="\n")


def _measured(options: argparse.Namespace) -> DataReport:
    least = {"workers": 0, "batch_size": 1, "ranks": 0}
    problems = [
        f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least {minimum}."
        for name, minimum in least.items()
        if getattr(options, name) < minimum
    ]
    problems += [
        f"--{name} is {getattr(options, name):g}; give more than 0." for name in ("seconds", "scale") if not getattr(options, name) > 0
    ]
    if problems:
        raise InputError(problems)
    torch.set_num_threads(1)
    found = DataReport(
        benchmark="data",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine.find(),
        device="cpu",
        webdataset=version("webdataset"),
        num_workers=options.workers,
        batch_size=options.batch_size,
        seconds=options.seconds,
        throughputs=[],
        waiting=None,
    )
    if options.out:
        found.write(options.out)  # now, so that a path that cannot be written is refused before anything is measured
    with tempfile.TemporaryDirectory(prefix="distgan-bench-") as folder:
        for images in image_sets(Path(folder), options.scale):
            print(f"{images.name}: {', '.join(CONTESTANTS)}", file=sys.stderr, flush=True)
            images.write()
            found.throughputs.extend(
                speed.throughputs(images, list(CONTESTANTS), options.batch_size, options.workers, options.seconds, "local files")
            )
            if options.latency_ms is not None:
                found.throughputs.extend(_over_http(images, options))
        if options.ranks:
            print(f"training on {options.ranks} ranks", file=sys.stderr, flush=True)
            waiting = run_ranks(options.ranks, speed.waiting, Path(folder, "run"), options.seconds)[0]
            found = found.model_copy(update={"waiting": waiting})
    if options.out:
        found.write(options.out)
    return found


def _over_http(images: ImageSet, options: argparse.Namespace) -> list[Throughput]:
    """One pass over the set from the server, by those who can, after the manifest was laid beside the shards."""
    open_manifest(images.shards)
    with serving(images.directory / "shards", options.latency_ms) as url:
        served = replace(images, url=url)
        names = [name for name in CONTESTANTS if name != FILES]
        source = f"over HTTP, {options.latency_ms:g} ms late"
        first = speed.epochs(served, names, options.batch_size, options.workers, f"{source}: a first pass, start included, nothing cached")
        return first + speed.throughputs(served, names, options.batch_size, options.workers, options.seconds, source)
