"""`python -m distgan.launch worker`: the process of a container that trains, one for each node.

It is made to be process 1. It waits until node 0 can be found, runs torch's elastic agent in this very process (so signals and exit
codes pass through no shell), and ends with a code by which a Job knows whether to try again: 0 done; 2 the configuration is wrong: do not
try again; 75 stopped on request and saved: try again, it is no failure; 1 anything else.
"""

import argparse
import os
import socket
from contextlib import suppress
from pathlib import Path

from distgan.arguments import port
from distgan.errors import InputError, RunError
from distgan.launch import agent, names
from distgan.launch.agent import MASTER_PORT, Node
from distgan.launch.job import NodeCount, checked, ranks_on_this_node
from distgan.launch.say import say
from distgan.launch.verdict import Verdict
from distgan.process import EXIT_FAILED, StopRequest

TERMINATION_MESSAGE = Path("/dev/termination-log")  # Kubernetes' default: what is written there stands in the pod's status
ELASTIC_RESTARTS = 10  # of the ranks of a node that stays, while others are lost; coming and going by itself does not count


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'."""
    parser = subparsers.add_parser(
        "worker",
        help="one node of a run, as process 1 of its container",
        description=__doc__,
    )
    parser.add_argument(
        "--nodes",
        default="1",
        metavar="N",
        help="nodes of the run (default: 1); MIN:MAX goes on with those that are left, and takes in those that come",
    )
    parser.add_argument(
        "--ranks-per-node", default="auto", metavar="N", help="processes on this node (default: auto, one for each GPU, or two without one)"
    )
    parser.add_argument(
        "--master-port", type=port, default=MASTER_PORT, metavar="PORT", help="of node 0, where the others find it (default: %(default)s)"
    )
    parser.add_argument(
        "--name-timeout", type=float, default=300.0, metavar="S", help="how long to wait for node 0's name, in seconds (default: 300)"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        metavar="N",
        help=f"how often to start the ranks again in the same container (default: 0; {ELASTIC_RESTARTS} with MIN:MAX)",
    )
    parser.set_defaults(run=run, settings=[])


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code, which the termination message explains."""
    try:
        found = _run(options)
    except InputError as error:
        _leave_message(" ".join(error.problems))
        raise
    except RunError as error:
        found = Verdict(EXIT_FAILED, str(error))
    say(found.sentence)
    _leave_message(found.sentence)
    return found.code


def _run(options: argparse.Namespace) -> Verdict:
    nodes, ranks_per_node = NodeCount.parse(options.nodes), ranks_on_this_node(options.ranks_per_node)
    index = _index(nodes)
    config = checked(options.settings, nodes, ranks_per_node)  # refuses what is wrong in a second
    node_0 = None
    if nodes.most > 1:
        node_0 = names.rank_zero(socket.getfqdn(), index)
        with StopRequest().listening() as stop:
            if not names.wait_for(node_0, options.name_timeout, stop, say):
                return agent.STOPPED_EARLY
    restarts = options.max_restarts if options.max_restarts is not None else ELASTIC_RESTARTS * nodes.is_elastic
    node = Node(nodes, index, ranks_per_node, node_0, options.master_port, run_id=node_0 or "distgan", max_restarts=restarts)
    return agent.train(node, options.settings, config.run.dir, tell=lambda found: _leave_message(found.sentence))


def _index(nodes: NodeCount) -> int:
    """Which node this is."""
    text = os.environ.get("JOB_COMPLETION_INDEX", "0" if nodes.most == 1 else "")
    if not text.isdecimal() or int(text) >= nodes.most:
        given = repr(text) if text else "not set"
        raise InputError(
            f"JOB_COMPLETION_INDEX is {given}, but --nodes is {nodes}; run this in an Indexed Job with as many completions, or set it to "
            f"this node's number from 0 to {nodes.most - 1}."
        )
    return int(text)


def _leave_message(sentence: str) -> None:
    with suppress(OSError):  # no container, or one that may not write there
        if TERMINATION_MESSAGE.exists():
            TERMINATION_MESSAGE.write_text(sentence)
