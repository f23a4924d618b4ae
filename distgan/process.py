"""What a training process owes the ones around it: to stop when asked, and not to outlive its agent."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from distgan.errors import InputError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2  # the command or its configuration is wrong: do not retry
EXIT_STOPPED = 75  # stopped on request, with a checkpoint: retry (EX_TEMPFAIL of sysexits.h)

SAME_REQUEST_SECONDS = 5.0

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Set by SIGTERM or Ctrl-C; one more of them, `SAME_REQUEST_SECONDS` later or after that, ends the process at once.

    What comes sooner is the same request by another way: SLURM, like systemd, signals every process of a job, and torch's agent passes on
    to its ranks what it was sent itself.
    """

    def __init__(self) -> None:
        self._requested = False
        self._timer = threading.Timer(SAME_REQUEST_SECONDS, _end_at_signals)
        self._timer.daemon = True

    def __call__(self) -> bool:
        return self._requested

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Within this, the two signals set the request."""
        before = {number: signal.signal(number, self._handle) for number in _STOP_SIGNALS}
        try:
            yield self
        finally:
            self._timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if not self._requested:
            self._requested = True
            self._timer.start()


def _end_at_signals() -> None:
    """From a thread, so not by Python's own means; and not by a handler in Python, which a process that hangs would not come to."""
    for number in _STOP_SIGNALS:
        ctypes.CDLL(None).signal(number, ctypes.c_void_p(None))  # SIG_DFL


def die_with_agent() -> None:
    """Under torchrun: be killed when the agent dies. Its workers live in sessions of their own and would go on writing."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())


def die_with_parent(parent: int) -> None:
    """Be killed when the process `parent`, which started this one, dies; on Linux, where the kernel sees to it."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that died before the call sends nothing any more; an orphan's parent is another process.
    if os.getppid() != parent:
        sys.exit(1)


def outlive_stop_signals() -> None:
    """In a process that helps a rank: SIGTERM and Ctrl-C come to the whole group, and the rank still wants to finish its step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without taking the interpreter and torch apart.

    Everything is written, flushed and closed by now. In two of some eighty runs of eight gloo ranks a finished rank
    aborted in torch's own static destructors ("terminate called without an active exception": a thread not joined), which
    turned a run that was done into a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def refuse(error: InputError, program: str, local_rank: int = 0) -> int:
    """Print what the user has to mend and return the exit code; only local rank 0 prints."""
    if local_rank == 0:
        for problem in error.problems:
            print(f"{program}: error: {problem}", file=sys.stderr)
        sys.stderr.flush()
    else:
        time.sleep(5)  # torchrun ends every rank as soon as one has failed: let local rank 0 speak first
    return EXIT_USAGE
