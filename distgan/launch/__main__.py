"""Start training on one machine or many.

python -m distgan.launch worker --nodes 4 -- --config recipe.yaml      the process of a container: one node of a run
"""

import argparse
import sys
from collections.abc import Sequence

from distgan.errors import InputError
from distgan.launch import worker
from distgan.process import refuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        return refuse(error, "distgan.launch")


def build_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = argparse.ArgumentParser(prog="distgan.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    worker.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
