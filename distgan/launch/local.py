"""`python -m distgan.launch local`: train on this machine, as torchrun would, but with honest exit codes: 0, 2, 75 and 1."""

import argparse
import shlex

from distgan.arguments import ON_SETTINGS
from distgan.launch import agent
from distgan.launch.agent import Node
from distgan.launch.job import NodeCount, checked, metrics_url, ranks_on_this_node
from distgan.launch.say import say
from distgan.process import EXIT_DONE


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'."""
    parser = subparsers.add_parser("local", help="on this machine", description=__doc__, epilog=ON_SETTINGS)
    parser.add_argument(
        "--ranks-per-node", default="auto", metavar="N", help="processes (default: auto, one for each GPU, or two without one)"
    )
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="how often to start them again after a failure (default: 0)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the settings and print the command, and do no more")
    parser.set_defaults(run=run, settings=[])


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    nodes, ranks = NodeCount(1, 1), ranks_on_this_node(options.ranks_per_node)
    config = checked(options.settings, nodes, ranks)
    node = Node(nodes, 0, ranks, max_restarts=options.max_restarts)
    if options.dry_run:
        print(shlex.join(agent.command(node, options.settings)))
        return EXIT_DONE
    url = metrics_url(config, config.metrics.host)
    if url is not None:
        say(f"Metrics of rank 0: {url}; rank k serves port {config.metrics.port} + k.")
    verdict = agent.train(node, options.settings, config.run.dir)
    say(verdict.sentence)
    return verdict.code
