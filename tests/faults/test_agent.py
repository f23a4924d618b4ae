"""What happens to workers when their agent goes: nobody is left behind writing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan import checkpoint

GUARD_SECONDS = 120


def _torchrun(run_dir: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train"),
        *("--run.dir", str(run_dir), "--model.name", "mlp", "--metrics.port", "0"),
        *("--train.total_kimg", "2000", "--checkpoint.every_kimg", "5"),
    ]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _until(condition, what: str) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def training(tmp_path: Path):
    """A run of two ranks that has saved its first checkpoint, and its workers."""
    with open(tmp_path / "stderr", "w") as stderr:
        agent = subprocess.Popen(_torchrun(tmp_path / "run"), stderr=stderr, start_new_session=True)
    try:
        _until(lambda: checkpoint.steps(tmp_path / "run" / "checkpoints") or agent.poll() is not None, "no checkpoint")
        assert agent.poll() is None, (tmp_path / "stderr").read_text()
        workers = [child for child in _children(agent.pid) if b"distgan.train" in Path(f"/proc/{child}/cmdline").read_bytes()]
        assert len(workers) == 2
        yield agent, workers
    finally:
        agent.kill()
        agent.wait()


def test_workers_die_with_their_agent(training: tuple[subprocess.Popen, list[int]]) -> None:
    agent, workers = training
    assert all(_alive(worker) for worker in workers)
    agent.kill()
    _until(lambda: not any(_alive(worker) for worker in workers), "a worker outlived its agent")


def test_sigterm_to_the_agent_saves_on_the_way_out(training: tuple[subprocess.Popen, list[int]], tmp_path: Path) -> None:
    agent, workers = training
    before = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    agent.send_signal(signal.SIGTERM)
    agent.wait(GUARD_SECONDS)
    _until(lambda: not any(_alive(worker) for worker in workers), "a worker outlived its agent")
    stderr = (tmp_path / "stderr").read_text()
    assert "Stopped; the same command goes on" in stderr
    steps = checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert steps[-1] > before
    checkpoint.verify(tmp_path / "run" / "checkpoints" / f"step-{steps[-1]:08d}")


def test_sigterm_to_one_worker_stops_all_with_one_checkpoint(training: tuple[subprocess.Popen, list[int]], tmp_path: Path) -> None:
    agent, workers = training
    os.kill(workers[1], signal.SIGTERM)
    assert agent.wait(GUARD_SECONDS) == 1
    stderr = (tmp_path / "stderr").read_text()
    assert "Stopped; the same command goes on" in stderr
    assert "exitcode  : 75" in stderr
    newest, warnings = checkpoint.newest_intact(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert warnings == []


def test_a_new_run_waits_for_the_old_one_to_let_go(training: tuple[subprocess.Popen, list[int]], tmp_path: Path) -> None:
    agent, _ = training
    second = subprocess.Popen([*_torchrun(tmp_path / "run"), "--train.total_kimg", "1"], stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    agent.send_signal(signal.SIGTERM)
    _, stderr = second.communicate(timeout=GUARD_SECONDS)
    assert second.returncode == 0, stderr
    assert "Resuming" in stderr
