"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` aside, flush it to the disk, and rename it to `path`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory, so that the renames in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, timeout_seconds: float | None = None, waiting: str = "") -> Iterator[None]:
    """Hold `path` (created if missing) by flock; the kernel lets go of it however the process ends.

    Prints `waiting` to stderr, once, if another process holds it.

    Raises:
        TimeoutError: another process held it for `timeout_seconds` (None: wait for ever).
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with open(path, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is held by another process") from None
                if waiting:
                    print(waiting, file=sys.stderr, flush=True)
                    waiting = ""
                time.sleep(0.1)
        yield
