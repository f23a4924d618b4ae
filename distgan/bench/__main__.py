"""Measure distgan beside what plain PyTorch offers: a table, and a JSON with all figures.

python -m distgan.bench ops --out bench.json
python -m distgan.bench ops --only tiny --only forward --seconds 1
python -m distgan.bench engines --ranks 1 2 4 --config launch/recipes/digits-sngan.yaml
python -m distgan.bench scaling --ranks 1 2 --out scaling.json
python -m distgan.bench data --workers 2
python -m distgan.bench damage --only "code in the data"
"""

import sys
import warnings
from collections.abc import Sequence

from distgan.arguments import Parser
from distgan.bench.damage import command as damage
from distgan.bench.data import command as data
from distgan.bench.engines import command as engines
from distgan.bench.ops import command as ops
from distgan.bench.scaling import command as scaling
from distgan.errors import InputError
from distgan.ops import library
from distgan.process import EXIT_DONE, refuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Missed goals are printed and are no failure."""
    parser = Parser(prog="distgan.bench", description=__doc__)
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for benchmark in (ops, engines, scaling, data, damage):
        benchmark.add_parser(benchmarks)
    warnings.simplefilter("ignore", library.PlainPyTorchWarning)  # it is said here, above the table
    try:
        options, others = parser.parse_known_args(arguments)
        if "settings" in options:
            options.settings = others
        elif others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        options.run(options)
    except InputError as error:
        return refuse(error, "distgan.bench")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
