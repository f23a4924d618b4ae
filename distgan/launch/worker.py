"""`python -m distgan.launch worker`: the process of a container that trains, one for each node.

It is made to be process 1. It waits until node 0 can be found, runs torch's elastic agent in this very process (so signals and exit
codes pass through no shell), and ends with a code by which a Job knows whether to try again: 0 done; 2 the configuration is wrong: do not
try again; 75 stopped on request and saved: try again, it is no failure; 1 anything else.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from distgan.cli import parse_command
from distgan.errors import InputError, RunError
from distgan.launch import names, verdict
from distgan.launch.verdict import Verdict
from distgan.process import EXIT_FAILED, EXIT_STOPPED, StopRequest
from distgan.run_directory import RunDirectory

TERMINATION_MESSAGE = Path("/dev/termination-log")  # Kubernetes' default: what is written there stands in the pod's status
MASTER_PORT = 29500


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'."""
    parser = subparsers.add_parser(
        "worker",
        help="one node of a run, as process 1 of its container",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the run (default: 1)")
    parser.add_argument(
        "--ranks-per-node", default="auto", metavar="N", help="processes on this node (default: auto, one for each GPU, or for each CPU)"
    )
    parser.add_argument(
        "--master-port", type=int, default=MASTER_PORT, metavar="PORT", help="of node 0, where the others find it (default: %(default)s)"
    )
    parser.add_argument(
        "--name-timeout", type=float, default=300.0, metavar="S", help="how long to wait for node 0's name, in seconds (default: 300)"
    )
    parser.add_argument("settings", nargs="*", metavar="-- SETTINGS", help="of distgan.train")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code, which the termination message explains."""
    try:
        found = _run(options)
    except InputError as error:
        _leave_message(" ".join(error.problems))
        raise
    except RunError as error:
        found = Verdict(EXIT_FAILED, str(error))
    _say(found.sentence)
    _leave_message(found.sentence)
    return found.code


def _run(options: argparse.Namespace) -> Verdict:
    checkpoints = RunDirectory(Path(parse_command(options.settings).config.run.dir)).checkpoints  # refuses what is wrong in a second
    index = _index(options.nodes)
    with _time_of_signal() as signal_times:
        arguments = ["--nproc-per-node", options.ranks_per_node, "--max-restarts", "0"]
        if options.nodes == 1:
            arguments.append("--standalone")
        else:
            node_0 = names.rank_zero(socket.getfqdn(), index)
            with StopRequest().listening() as stop:
                if not names.wait_for(node_0, options.name_timeout, stop, _say):
                    return Verdict(EXIT_STOPPED, "Stopped before training began.")
            arguments += ["--nnodes", str(options.nodes), "--node-rank", str(index)]
            arguments += ["--master-addr", node_0, "--master-port", str(options.master_port)]
            _say(f"Node {index} of {options.nodes}; node 0 is {node_0}.")
        try:
            torchrun.run(torchrun.parse_args([*arguments, "-m", "distgan.train", *options.settings]))
        except ChildFailedError as error:
            return verdict.of_workers([failure.exitcode for failure in error.failures.values()])
        except SignalException as stopped:
            return verdict.of_signal(stopped.sigval, min(signal_times, default=time.time()), checkpoints)
    return verdict.DONE


def _index(num_nodes: int) -> int:
    """Which node this is."""
    if num_nodes < 1:
        raise InputError(f"--nodes is {num_nodes}; give the number of nodes, 1 or more.")
    text = os.environ.get("JOB_COMPLETION_INDEX", "0" if num_nodes == 1 else "")
    if not text.isdecimal() or int(text) >= num_nodes:
        raise InputError(
            f"JOB_COMPLETION_INDEX is {text!r}, but --nodes is {num_nodes}; run this in an Indexed Job with as many completions, or set "
            f"it to this node's number from 0 to {num_nodes - 1}."
        )
    return int(text)


@contextmanager
def _time_of_signal() -> Iterator[list[float]]:
    """When the first signal that ends the run came, once it has.

    The agent has handlers of its own, which tell nobody when they were called; what the interpreter writes into a wake-up
    descriptor does, whoever handles the signal.
    """
    found: list[float] = []
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def note() -> None:
        while signals := receiver.recv(1):
            if signals[0] in (signal.SIGTERM, signal.SIGINT):
                found.append(time.time())
                return

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield found
    finally:
        signal.set_wakeup_fd(before)
        sender.close()
        thread.join(1.0)
        receiver.close()


def _say(text: str) -> None:
    print(f"distgan.launch: {text}", file=sys.stderr, flush=True)


def _leave_message(sentence: str) -> None:
    with suppress(OSError):  # no container, or one that may not write there
        if TERMINATION_MESSAGE.exists():
            TERMINATION_MESSAGE.write_text(sentence)
