"""The processes that read streams: nothing ends them early, and they end with their rank, their programs with them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_server import serving
from tests.processes import alive, descendants, until
from tests.shards import write_set
from tests.streams import Start, take

GUARD_SECONDS = 60


RANK = """
import sys
from distgan.batch import BatchLayout
from distgan.data.streaming.stream_reader import StreamReader
reader = StreamReader([sys.argv[1]], BatchLayout(8, 1, 1, 0), 8, 1, None, 0, num_workers=int(sys.argv[2]))
try:
    next(reader)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(15):
            next(reader)
        print("read on", flush=True)
finally:
    reader.close()
print("closed", flush=True)
"""


@contextlib.contextmanager
def rank_of(url: str, num_workers: int) -> Iterator[subprocess.Popen[str]]:
    """A process that reads a stream, in a group of its own; by a line it is told to read on. It ignores the signals that the test sends."""
    program = f"import signal\nfor number in (2, 15): signal.signal(number, lambda *_: None)\n{RANK}"
    command = [sys.executable, "-c", program, url, str(num_workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            for pid in (*descendants(process.pid), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("source", "number", "num_workers"),
    [("command", signal.SIGTERM, 0), ("server", signal.SIGINT, 0), ("command", signal.SIGINT, 2), ("server", signal.SIGTERM, 2)],
)
def test_a_signal_to_all_processes_cuts_no_stream(source: str, number: signal.Signals, num_workers: int, tmp_path: Path) -> None:
    """Neither the workers nor the programs that they read from end of it: the rank still needs its images."""
    (path,) = write_set(tmp_path, [200])
    with serving(tmp_path) as server:
        server.faults[f"/{path.name}"].bytes_per_second = 1e6
        url = server.url(path.name) if source == "server" else f"pipe:split -b 4096 --filter='cat; sleep 0.004' {path}"
        with rank_of(url, num_workers) as rank:
            assert rank.stdin is not None
            assert rank.stdout is not None
            for _ in range(2):
                for pid in [rank.pid, *descendants(rank.pid)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                rank.stdin.write("on\n")
                rank.stdin.flush()
                assert rank.stdout.readline() == "read on\n"
            rank.stdin.close()
            assert rank.stdout.readline() == "closed\n"
            assert rank.wait(GUARD_SECONDS) == 0


def test_workers_end_with_a_rank_that_is_killed(tmp_path: Path) -> None:
    """And the commands they read from, though nothing comes from there that a closed pipe would stop."""
    (path,) = write_set(tmp_path, [150])
    with rank_of(f"pipe:cat {path}; sleep 1000; true", 2) as rank:
        until(lambda: len(descendants(rank.pid)) == 6, "two workers with a shell and its sleep each", GUARD_SECONDS)
        below = descendants(rank.pid)
        rank.kill()
        until(lambda: not any(alive(pid) for pid in below), "a worker or its command outlived the rank", GUARD_SECONDS)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_close_does_not_wait_for_a_command_that_says_nothing(num_workers: int, tmp_path: Path, start_stream: Start) -> None:
    """A server that hangs: its images never come. The first ones did."""
    (path,) = write_set(tmp_path, [150])
    before = descendants(os.getpid())
    reader = start_stream([f"pipe:cat {path}; exec sleep 1000"], num_workers=num_workers)
    take(reader, 1)
    started = descendants(os.getpid()) - before
    assert len(started) >= max(1, num_workers)
    reader.close()
    reader._lifeline = os.open(os.devnull, os.O_RDONLY)  # for the fixture, which closes once more
    until(lambda: not any(alive(pid) for pid in started), "a worker or its command is left", GUARD_SECONDS)
