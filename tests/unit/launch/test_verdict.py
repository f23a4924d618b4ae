"""Exit codes of ranks and checkpoints -> the exit code of a node."""

import os
import signal
from pathlib import Path

import pytest
import torch

from distgan import checkpoint
from distgan.checkpoint import Checkpoint
from distgan.launch.verdict import of_signal, of_workers


@pytest.mark.parametrize(
    ("codes", "expected", "words"),
    [
        ([2], 2, "Trying again is no use"),
        ([1, 2, -9], 2, "configuration was refused"),
        ([75], 75, "stopped on request"),
        ([75, 75], 75, "stopped on request"),
        ([75, -9], 1, "by SIGKILL, with exit code 75"),
        ([1], 1, "with exit code 1;"),
        ([-11, -11], 1, "by SIGSEGV;"),
    ],
)
def test_of_workers(codes: list[int], expected: int, words: str) -> None:
    found = of_workers(codes)
    assert found.code == expected
    assert words in found.sentence


def saved(directory: Path, step: int, at: float) -> Path:
    path = checkpoint.save(directory, step, Checkpoint({"generator": {"weight": torch.ones(3)}}, {}), keep=3)
    os.utime(path / "checksums.json", (at, at))
    return path


def test_a_signal_after_which_the_run_was_saved_is_no_failure(tmp_path: Path) -> None:
    assert of_signal(signal.SIGTERM, 1e9, tmp_path).code == 1
    saved(tmp_path, 10, at=1e9 - 600)
    assert of_signal(signal.SIGTERM, 1e9, tmp_path).code == 1
    path = saved(tmp_path, 20, at=1e9 + 5)
    found = of_signal(signal.SIGTERM, 1e9, tmp_path)
    assert (found.code, found.sentence) == (75, "SIGTERM: training was saved at step 20, and goes on from there.")
    assert of_signal(signal.SIGTERM, 1e9 + 15, tmp_path).code == 75  # this node was told when all was done
    with open(path / "generator.safetensors", "ab") as file:
        file.write(b"x")
    assert of_signal(signal.SIGTERM, 1e9, tmp_path).code == 1  # what was saved since is damaged
