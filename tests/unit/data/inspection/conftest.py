from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from distgan.data.__main__ import main
from tests.shards import write_set


class Outcome(NamedTuple):
    """Of a command: its exit code, the lines on stdout, and stderr."""

    code: int
    lines: list[str]
    stderr: str


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three shards of 3, 5 and 2 samples, 0000.tar to 0002.tar, not indexed yet."""
    write_set(tmp_path / "shards", [3, 5, 2])
    return (tmp_path / "shards").resolve()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command of distgan.data in this process."""

    def run_(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capfd.readouterr()
        return Outcome(code, output.out.splitlines(), output.err)

    return run_
