"""Make data sets ready to train on, and look at them.

python -m distgan.data pack photos shards --resolution 64
python -m distgan.data index shards
python -m distgan.data verify 'shards/{000..127}.tar' --jobs 8
python -m distgan.data stats digits --out looks
"""

import argparse
import sys
from collections.abc import Sequence

from distgan.arguments import Parser
from distgan.data.inspection import command as inspection
from distgan.data.packing import command as packing
from distgan.errors import InputError, RunError
from distgan.process import EXIT_FAILED, refuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except InputError as error:
        return refuse(error, "distgan.data")
    except RunError as error:
        print(f"distgan.data: error: {error}", file=sys.stderr)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="distgan.data", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    packing.add_parser(subparsers)
    inspection.add_parsers(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
