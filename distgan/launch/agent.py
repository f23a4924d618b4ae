"""Run the ranks of one node: torch's elastic agent, in this very process, so that signals and exit codes pass through nobody."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from distgan.launch import verdict
from distgan.launch.job import NodeCount
from distgan.launch.say import say
from distgan.launch.verdict import Verdict
from distgan.process import EXIT_FAILED, EXIT_STOPPED, leave
from distgan.run_directory import RunDirectory

MASTER_PORT = 29500
STOPPED_EARLY = Verdict(EXIT_STOPPED, "Stopped before training began.")
# How soon a node counts as lost (s between signs of life; how many may be missed), and how long enough nodes wait for more of them.
_ELASTIC = ("keep_alive_interval=3", "keep_alive_max_attempt=3", "last_call_timeout=15")
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EARLY_SECONDS = 3.0  # for which an agent without ranks may take a signal by itself, before it is ended from outside


@dataclass(frozen=True)
class Node:
    """One node among those of a run.

    Args:
        rank: its number; without meaning where the nodes are counted anew each time (elastic), but for 0, where they meet.
        master_address: node 0's name; None on one node.
        run_id: by which the nodes of one run know each other (elastic).
        max_restarts: how often this node starts its ranks again by itself after a failure.
    """

    nodes: NodeCount
    rank: int
    ranks_per_node: int
    master_address: str | None = None
    master_port: int = MASTER_PORT
    run_id: str = "distgan"
    max_restarts: int = 0

    def torchrun_arguments(self) -> list[str]:
        """The options of torchrun that make it this node's agent."""
        arguments = ["--nproc-per-node", str(self.ranks_per_node), "--max-restarts", str(self.max_restarts)]
        if self.nodes.most == 1 or self.master_address is None:
            return [*arguments, "--standalone"]
        arguments += ["--nnodes", str(self.nodes)]
        if self.nodes.is_elastic:
            meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{self.master_address}:{self.master_port}"]
            conf = ",".join([*_ELASTIC, f"is_host={int(self.rank == 0)}"])
            return [*arguments, *meeting, "--rdzv-id", self.run_id, "--rdzv-conf", conf]
        meeting = ["--master-addr", self.master_address, "--master-port", str(self.master_port)]
        return [*arguments, "--node-rank", str(self.rank), *meeting]


def command(node: Node, settings: Sequence[str]) -> list[str]:
    """What does the same on a command line, but for the exit codes."""
    return ["torchrun", *node.torchrun_arguments(), "-m", "distgan.train", *settings]


def train(node: Node, settings: Sequence[str], run_dir: str, tell: Callable[[Verdict], object] = lambda _: None) -> Verdict:
    """Train on this node, to the end or until a signal.

    Args:
        settings: of distgan.train.
        run_dir: of the run, into whose checkpoints a node that was stopped looks.
        tell: is told how it ended where this never returns: a signal that comes while the nodes still look for each other.
    """
    if node.ranks_per_node > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, after a warning
    if node.nodes.is_elastic:
        # Or the ranks' own store would be node 0's agent's, and outlive the ranks that it is about.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")

    if node.master_address is not None:
        say(f"Node {node.rank} of {node.nodes}; node 0 is {node.master_address}.")

    def end_early() -> None:
        tell(STOPPED_EARLY)
        say(STOPPED_EARLY.sentence)
        leave(STOPPED_EARLY.code)

    with _watching(end_early) as signal_times:
        try:
            torchrun.run(torchrun.parse_args([*node.torchrun_arguments(), "-m", "distgan.train", *settings]))
        except ChildFailedError as error:
            return verdict.of_workers([failure.exitcode for failure in error.failures.values()])
        except (RendezvousError, dist.DistError) as error:
            reason = str(error).partition("\n")[0]
            return Verdict(
                EXIT_FAILED, f"The nodes did not meet at {node.master_address}:{node.master_port}, or lost each other ({reason})."
            )
        except _EarlySignal:
            return STOPPED_EARLY
        except SignalException as stopped:
            return verdict.of_signal(stopped.sigval, min(signal_times, default=time.time()), RunDirectory(Path(run_dir)).checkpoints)
    return verdict.DONE


@contextmanager
def _watching(end_early: Callable[[], None]) -> Iterator[list[float]]:
    """When the first signal that ends the run came, once it has; one that comes before there are ranks ends the process.

    The agent installs its handlers when it starts its ranks, and they tell nobody when they were called. Before, while it waits for
    other nodes, process 1 of a container would take no notice of a signal, and Python would not come to a handler of its own before that
    wait is over. What the interpreter writes into a wake-up descriptor reaches a thread in any case, whoever handles the signal.
    """
    found: list[float] = []
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def note() -> None:
        while signals := receiver.recv(1):
            if signals[0] in _ENDING:
                found.append(time.time())
                break
        else:
            return
        if not psutil.Process().children():
            time.sleep(_EARLY_SECONDS)
            if not psutil.Process().children():
                end_early()

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _raise) for number in _ENDING}
    try:
        yield found
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        sender.close()
        thread.join(1.0)
        receiver.close()


class _EarlySignal(SignalException):
    """A signal that came before the ranks were started."""


def _raise(number: int, frame: object) -> None:
    """As the agent's own handler does, which takes this one's place."""
    name = signal.Signals(number)
    raise _EarlySignal(f"{name.name} before the ranks were started", sigval=name)
