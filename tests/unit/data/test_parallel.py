"""Work in processes: in order, and what becomes of one that is killed in the worst moment."""

import os
import signal
import subprocess
import sys

import pytest

from distgan.data.parallel import in_processes
from distgan.errors import InputError, RunError

GUARD_SECONDS = 120


def square(number: int) -> int:
    if number == 7:
        raise InputError("seven")
    return number * number


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order(num_processes: int) -> None:
    numbers = [*range(7), *range(8, 40)]
    assert list(in_processes(square, [(number,) for number in numbers], 0, num_processes)) == [number**2 for number in numbers]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_is_the_one_that_was_raised(num_processes: int) -> None:
    with pytest.raises(InputError, match="seven"):
        list(in_processes(square, [(number,) for number in range(9)], 0, num_processes))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(RunError, match="One of 2 processes that read shards was killed"):
        list(in_processes(die, [(), ()], 0, 2))


KILLED_IN_WRITING = """
import os, signal, threading
from distgan.data.parallel import in_processes

def killed_in_writing():
    # Its own thread ends it as soon as it waits in write(2) for somebody to read, with most of the result still to come.
    syscall = f"/proc/self/task/{threading.main_thread().native_id}/syscall"

    def watch():
        while True:
            if open(syscall).read().startswith("1 "):
                os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return bytes(2**28)

list(in_processes(killed_in_writing, [(), ()], 0, 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which system call a thread is in")
def test_one_that_is_killed_in_writing_its_result_is_no_hang() -> None:
    """In joblib's own pipe it leaves half a result, for the rest of which the parent waits, and the lock that the other needs.

    A file takes all at once: then nobody is killed.
    """
    process = subprocess.Popen([sys.executable, "-c", KILLED_IN_WRITING], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, stderr = process.communicate(timeout=GUARD_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0 or "RunError: One of 2 processes" in stderr
