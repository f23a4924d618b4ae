"""Start training on one machine or many. What is no option of a command is a setting of distgan.train.

python -m distgan.launch local --config my.yaml                                  this machine, every GPU
python -m distgan.launch multinode --hosts node-0,node-1 --config my.yaml        several, by ssh
python -m distgan.launch slurm submit --nodes 2 --config my.yaml                 several, by SLURM
python -m distgan.launch k8s submit --nodes 2 --image IMAGE --config my.yaml     several, by Kubernetes; k8s logs follows it
python -m distgan.launch plan --measured FILE --gpus 8 64 512                    how fast it would be, and what would hold it back
python -m distgan.launch worker --nodes 2 -- --config my.yaml                    the process of a container: one node of a run

What starts, submits or stops something takes --dry-run, which prints what would be done.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence

from distgan.arguments import Parser
from distgan.errors import InputError, RunError
from distgan.launch import local, multinode, slurm, worker
from distgan.launch.kubernetes import command as k8s
from distgan.launch.planning import command as plan
from distgan.launch.say import say
from distgan.process import EXIT_FAILED, refuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return options.run(options)
    except InputError as error:
        return refuse(error, "distgan.launch")
    except RunError as error:
        say(str(error))
        return EXIT_FAILED


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's options; `settings` is what is none of them, and all that follows a `--`."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    options, settings = build_parser().parse_known_args(given[:cut])
    settings += given[cut + 1 :]
    if settings and "settings" not in options:
        raise InputError(f"{settings[0]!r} is no argument of this command; see its --help.")
    options.settings = settings
    for key in (argument.partition("=")[0] for argument in settings):
        if key.startswith("--") and "." not in key and key != "--config":
            known = [f"--{name.replace('_', '-')}" for name in vars(options)]
            nearest = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean {nearest[0]}?" if nearest else "see --help, and distgan.train --help."
            raise InputError(f"{key} is neither an option of this command nor a setting of the run; {mend}")
    return options


def build_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = Parser(prog="distgan.launch", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (local, multinode, slurm, k8s, plan, worker):
        command.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
