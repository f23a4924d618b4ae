"""python -m distgan.launch worker: the exit codes that a Job acts on, from real ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan import checkpoint

GUARD_SECONDS = 120
SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16", "--metrics.port", "0"]


def worker(run: Path, *options: str, settings: tuple[str, ...] = (), index: str | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distgan.launch", "worker", "--ranks-per-node", "2", *options, "--", *SMALL, "--run.dir", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if index is None else {"JOB_COMPLETION_INDEX": index})
    return subprocess.Popen([*command, *settings], env=environment, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Its exit code, and what the command itself says."""
    try:
        _, stderr = process.communicate(timeout=GUARD_SECONDS)
    finally:
        process.kill()
    return process.returncode, [line for line in stderr.splitlines() if line.startswith("distgan.launch: ")]


def test_training_that_is_done(tmp_path: Path) -> None:
    assert told(worker(tmp_path / "run", settings=("--train.total_kimg", "0.64"))) == (0, ["distgan.launch: Training is done."])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [10]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--train.batchsize", "3"), "train.batchsize is not a setting"),  # refused here
        (("--data.url", "/nowhere"), "The configuration was refused"),  # refused by the ranks
    ],
)
def test_what_is_wrong_is_not_to_be_tried_again(tmp_path: Path, settings: tuple[str, ...], words: str) -> None:
    code, lines = told(worker(tmp_path / "run", settings=settings))
    assert code == 2
    assert words in lines[-1]


def _in_training(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not checkpoint.steps(run / "checkpoints"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


ENDLESS = ("--train.total_kimg", "100000", "--checkpoint.every_kimg", "0.64")


def test_a_node_that_is_told_to_end_saves_first(tmp_path: Path) -> None:
    process = worker(tmp_path / "run", settings=ENDLESS)
    _in_training(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    code, lines = told(process)
    assert code == 75
    step = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    assert lines[-1] == f"distgan.launch: SIGTERM: training was saved at step {step}, and goes on from there."


def test_a_rank_that_is_killed_is_a_failure(tmp_path: Path) -> None:
    process = worker(tmp_path / "run", settings=ENDLESS)
    _in_training(tmp_path / "run", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(child) for child in children if b"distgan.train" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    code, lines = told(process)
    assert code == 1
    assert "SIGKILL" in lines[-1]


def test_a_node_without_its_number_is_refused(tmp_path: Path) -> None:
    code, lines = told(worker(tmp_path / "run", "--nodes", "3", index="3"))
    assert code == 2
    assert "JOB_COMPLETION_INDEX is '3', but --nodes is 3" in lines[-1]
