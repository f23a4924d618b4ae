"""Asking a process to stop: once by several ways, and once more in earnest."""

import signal
import subprocess
import sys
import time

import pytest

# It hangs outside of Python, as in an exchange with a rank that is gone.
HANGING = """
import ctypes, sys
from distgan import process
process.SAME_REQUEST_SECONDS = float(sys.argv[1])
with process.StopRequest().listening() as stop:
    print("listening", flush=True)
    while not stop():
        pass
    print("stopping", flush=True)
    while True:
        ctypes.CDLL(None).pause()
"""


@pytest.mark.parametrize(("same_request_seconds", "expected"), [(600.0, None), (0.1, -signal.SIGTERM)])
def test_only_a_later_signal_ends_a_process_that_stops(same_request_seconds: float, expected: int | None) -> None:
    command = [sys.executable, "-c", HANGING, str(same_request_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in ("listening\n", "stopping\n"):
                assert process.stdout.readline() == line
                process.send_signal(signal.SIGTERM)
                time.sleep(1)
            assert process.poll() == expected
        finally:
            process.kill()
