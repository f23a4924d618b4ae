"""How a node ended -> the exit code that tells a Job whether to try again, and the sentence of its termination message.

torchrun ends with 1 after every failure, so that a wrong configuration is tried again until the patience of the Job ends.
"""

import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distgan import checkpoint
from distgan.process import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE

# Nodes are told one after the other, and the first to be told makes all of them save: the last ones are told when it is done. And
# the clock of a shared volume is not this node's.
SPARED_SECONDS = 60.0


@dataclass(frozen=True)
class Verdict:
    """How the node ends."""

    code: int
    sentence: str


DONE = Verdict(EXIT_DONE, "Training is done.")


def of_workers(codes: Collection[int]) -> Verdict:
    """Of the exit codes of the ranks that failed; below 0: the number of the signal that ended one."""
    if EXIT_USAGE in codes:
        return Verdict(EXIT_USAGE, "The configuration was refused; the log says what to mend. Trying again is no use.")
    if all(code == EXIT_STOPPED for code in codes):
        return Verdict(EXIT_STOPPED, "Training was stopped on request, with a checkpoint; it goes on from there.")
    ended = ", ".join(sorted({f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}" for code in codes}))
    return Verdict(EXIT_FAILED, f"A rank ended {ended}; training goes on from the last checkpoint.")


def of_signal(number: int, signal_time: float, checkpoints: Path) -> Verdict:
    """Of a node that was told to end by a signal: what counts is whether the run was saved.

    Args:
        signal_time: when the signal came, in seconds since 1970.
        checkpoints: of the run; all nodes share them.
    """
    name = signal.Signals(number).name
    newest, _ = checkpoint.newest_intact(checkpoints)
    if newest is not None and checkpoint.time_of(checkpoints, newest) > signal_time - SPARED_SECONDS:
        return Verdict(EXIT_STOPPED, f"{name}: training was saved at step {newest}, and goes on from there.")
    return Verdict(EXIT_FAILED, f"{name}: nothing was saved since; training goes on from the checkpoint before.")
