"""`python -m distgan.launch multinode`: train on several machines that share a file system.

With --hosts, one command on any machine starts all of them by ssh, with this Python and in this directory. Without, it is run on every
machine, as a scheduler does, each with its own --node-rank. Exit codes: 0 done; 2 the configuration is wrong; 75 stopped, with a
checkpoint; 1 anything else.
"""

import argparse
import os
import re
import shlex
import signal
import sys
import threading
import time

from distgan.arguments import ON_SETTINGS, command_line, port
from distgan.errors import InputError
from distgan.launch import agent
from distgan.launch.agent import MASTER_PORT, Node
from distgan.launch.job import NodeCount, checked, metrics_url, ranks_on_this_node
from distgan.launch.remote import Remote, check_ssh, run_everywhere
from distgan.launch.say import say
from distgan.process import EXIT_DONE

_HOST = re.compile(r"[\w:.@\[\]][\w:.@\[\]-]*")  # what ssh takes for no option


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'."""
    parser = subparsers.add_parser(
        "multinode",
        help="on several machines, by ssh or one command on each",
        description=__doc__,
        epilog=ON_SETTINGS,
    )
    parser.add_argument("--hosts", metavar="A,B", help="the machines, node 0 first; they are reached by ssh, without a password")
    parser.add_argument(
        "--ssh", type=command_line, default="ssh", metavar="COMMAND", help="how to reach them, such as 'ssh -p 2222 -i key' (default: ssh)"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="without --hosts: how many machines there are")
    parser.add_argument("--node-rank", type=int, metavar="K", help="without --hosts: which of them this one is, from 0")
    parser.add_argument("--master-addr", metavar="HOST", help="node 0's name or address for the others (default with --hosts: the first)")
    parser.add_argument(
        "--master-port", type=port, default=MASTER_PORT, metavar="PORT", help="where they meet there (default: %(default)s)"
    )
    parser.add_argument(
        "--ranks-per-node", default="auto", metavar="N", help="processes on each (default: auto, one for each GPU, or two without one)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the settings and print the commands, and do no more")
    parser.add_argument("--stop-with-input", action="store_true", help=argparse.SUPPRESS)  # what --hosts gives to each of them
    parser.set_defaults(run=run, settings=[])


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    by_itself = {name: getattr(options, name) for name in ("nodes", "node_rank", "master_addr")}
    if options.hosts is not None:
        given = [name for name in ("nodes", "node_rank") if by_itself[name] is not None]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-')} is {by_itself[given[0]]}, but --hosts says which machines there are; give one."
            )
        return _run_all(options)
    missing = [f"--{name.replace('_', '-')}" for name, value in by_itself.items() if value is None]
    if missing:
        raise InputError(f"{missing[0]} is missing; give --hosts, or --nodes, --node-rank and --master-addr on each machine.")
    return _run_this(options)


def _run_this(options: argparse.Namespace) -> int:
    """One node of the run, on this machine."""
    nodes = NodeCount.parse(str(options.nodes))
    if not 0 <= options.node_rank < nodes.most:
        raise InputError(f"--node-rank is {options.node_rank}, but --nodes is {nodes}; give a number from 0 to {nodes.most - 1}.")
    ranks = ranks_on_this_node(options.ranks_per_node)
    config = checked(options.settings, nodes, ranks)
    node = Node(nodes, options.node_rank, ranks, options.master_addr, options.master_port)
    if options.dry_run:
        print(shlex.join(agent.command(node, options.settings)))
        return EXIT_DONE
    if options.stop_with_input:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    found = agent.train(node, options.settings, config.run.dir)
    say(found.sentence)
    return found.code


def _stop_with_input() -> None:
    """Ask this process to end when whoever started it says so or is gone: ssh passes on no signals, but the end of its input."""
    while os.read(0, 1024):  # and not sys.stdin, whose lock this thread would hold when the process ends
        pass
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # until the agent listens
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def _run_all(options: argparse.Namespace) -> int:
    """All nodes, by ssh."""
    hosts = [host.strip() for host in options.hosts.split(",")]
    if len(set(hosts)) < len(hosts) or not all(_HOST.fullmatch(host) for host in hosts):
        raise InputError(f"--hosts is {options.hosts!r}; give different names, with commas between them: node-0,node-1.")
    # By itself one at least: machines with GPUs may well be started from one without.
    ranks = 1 if options.ranks_per_node == "auto" else ranks_on_this_node(options.ranks_per_node)
    config = checked(options.settings, NodeCount(len(hosts), len(hosts)), ranks)
    each = [
        *(sys.executable, "-m", "distgan.launch", "multinode", "--nodes", str(len(hosts)), "--ranks-per-node", options.ranks_per_node),
        *("--master-addr", options.master_addr or hosts[0].rpartition("@")[2], "--master-port", str(options.master_port)),
        "--stop-with-input",
    ]
    nodes = [Remote(host, [*each, "--node-rank", str(rank), "--", *options.settings]) for rank, host in enumerate(hosts)]
    if options.dry_run:
        print("\n".join(shlex.join(node.command(options.ssh)) for node in nodes))
        return EXIT_DONE
    check_ssh(options.ssh)
    url = metrics_url(config, "127.0.0.1")
    if url is not None:
        say(f"Metrics of rank 0, on {hosts[0]}: {url}; from elsewhere, set metrics.host.")
    found = run_everywhere(nodes, options.ssh)
    say(found.sentence)
    return found.code
