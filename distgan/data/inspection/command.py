"""The commands that look at a data set: `index`, `verify` and `stats` of python -m distgan.data."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distgan.data.inspection import describing, indexing, verification
from distgan.data.shards.urls import called

MAX_SKIPPED_SHARE = 0.01  # as data.max_skipped_share; a test holds them equal, as distgan.config imports torch


def add_parsers(subparsers: Any) -> None:
    """Add a parser for each command; its `run` takes the parsed options and returns the exit code.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    index = _parser(
        subparsers, "index", indexing.run, "index shards that are new or have changed, here or behind URLs, and list all that is damaged"
    )
    index.epilog = "Exit code: 0: nothing is damaged, or a run may skip it; 1: something is damaged; 2: the command is wrong."
    index.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="as data.on_error of a run (default: fail)")
    index.add_argument(
        "--max-skipped-share",
        type=float,
        default=MAX_SKIPPED_SHARE,
        metavar="X",
        help="with skip: the share of all samples that may be damaged (default: %(default)s)",
    )

    verify = _parser(
        subparsers, "verify", verification.run, "read all local shards again and list what is not as it was when it was indexed"
    )
    verify.epilog = "Exit code: 0: all is as it was; 1: something is damaged; 2: the command is wrong, or shards were never indexed."
    verify.add_argument(
        "--jobs", type=int, metavar="N", help="number of processes (default: one for each CPU, where there is much to read)"
    )
    verify.add_argument("--decode", action="store_true", help="also decode every image")

    stats = _parser(subparsers, "stats", describing.run, "classes, image sizes, bytes and pixels of local shards")
    stats.add_argument("--out", type=Path, metavar="DIR", help="also write stats.json and contact-sheet.png there (default: only print)")
    stats.add_argument(
        "--max-samples",
        type=int,
        default=10_000,
        metavar="N",
        help="images to decode at most, spread evenly over the set (default: %(default)s)",
    )


def _parser(subparsers: Any, name: str, run: Any, description: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=description, description=f"{description[0].upper()}{description[1:]}.")
    parser.add_argument("url", metavar="URL", help="as data.url: 'digits', or a directory, a tar or a brace pattern of shards")
    parser.set_defaults(run=partial(_run, run))
    return parser


def _run(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    with called("URL"):
        return run(options)
