"""Files are whole, the old one or the new one; locks end with their holder."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distgan import files
from distgan.files import locked, write_atomically

HOLDER = """
import sys, time
from pathlib import Path
from distgan.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
time.sleep(60)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path`/lock until it reads a line or is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_content_is_replaced(target: Path) -> None:
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    write_atomically(target, b"")
    assert target.read_bytes() == b""
    assert [path.name for path in target.parent.iterdir()] == ["state.json"]


def test_a_new_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"\0\1")
    assert (tmp_path / "new").read_bytes() == b"\0\1"


def test_a_reader_keeps_the_old_file(target: Path) -> None:
    with open(target, "rb") as file:
        write_atomically(target, b"new")
        assert file.read() == b"old"


def test_the_content_reaches_the_disk_before_the_name_does(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is flushed, then renamed, then the directory is flushed."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fsync(descriptor)

    def spy_replace(source: Path, destination: Path) -> None:
        calls.append(("replace", str(source), str(destination)))
        replace(source, destination)

    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(files.os, "replace", spy_replace)
    write_atomically(target, b"newer")
    (first, aside, size), second, third = calls
    assert (first, size) == ("fsync", 5)
    assert second == ("replace", aside, str(target))
    assert third[:2] == ("fsync", str(target.parent))


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupt"])
def test_a_failure_leaves_the_old_file_alone(target: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(files.os, function, fail)
    with pytest.raises(type(error)):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["state.json"]


def test_no_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"new")


def test_a_lock_excludes(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(TimeoutError, match="lock is held by another process"), locked(tmp_path / "lock", timeout_seconds=0.2):
        pytest.fail("entered")
    with pytest.raises(TimeoutError), locked(tmp_path / "lock", timeout_seconds=0):
        pytest.fail("entered")


def test_a_lock_is_waited_for(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    let_go = threading.Event()

    def go_on() -> None:
        let_go.set()
        assert holder.stdin is not None
        holder.stdin.write("go on\n")
        holder.stdin.flush()

    threading.Timer(0.2, go_on).start()
    with locked(tmp_path / "lock", timeout_seconds=20):
        assert let_go.is_set()
        assert holder.poll() is None


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    with locked(tmp_path / "lock", timeout_seconds=20):
        pass
    assert holder.wait() == -signal.SIGKILL


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    """Also when that raises; and threads of one process exclude each other."""
    path = tmp_path / "lock"
    with locked(path), pytest.raises(TimeoutError), locked(path, timeout_seconds=0):
        pytest.fail("entered")
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path, timeout_seconds=0):
        assert path.exists()


def test_a_lock_keeps_the_content(target: Path) -> None:
    with locked(target):
        pass
    assert target.read_bytes() == b"old"


def test_other_locks_are_free(tmp_path: Path) -> None:
    with locked(tmp_path / "one", timeout_seconds=0), locked(tmp_path / "two", timeout_seconds=0):
        pass
