"""Worker processes: the same tasks give the same, whoever dies meanwhile; they end with their rank, and nothing else ends them early."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distgan.batch import BatchLayout
from distgan.data.plan import SamplePlan
from distgan.data.reading.reader import Reader
from distgan.data.reading.worker import DEPTH, MAX_RESTARTS, SliceShape, Worker, WorkerDiedError
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.urls import resolve
from tests.shards import noise, write_set


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four shards of 16 grey images of 8x8 pixels."""
    directory = tmp_path_factory.mktemp("shards")
    write_set(directory, [16] * 4)
    return open_manifest(resolve(str(directory)))


@pytest.fixture
def worker(manifest: Manifest) -> Iterator[Worker]:
    """A worker for slices of four images."""
    worker = Worker(SliceShape(4, 8, 1), manifest.shards)
    yield worker
    worker.close()


def submit(worker: Worker, shard: int, first: int) -> None:
    worker.submit(np.full(4, shard), np.arange(first, first + 4))


def expected(shard: int, first: int) -> np.ndarray:
    return np.stack([noise(16 * shard + place)[..., None] for place in range(first, first + 4)])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_of(worker: Worker) -> int:
    return worker._process.pid


def test_results_come_in_the_order_of_the_tasks(worker: Worker) -> None:
    tasks = [(shard, first) for shard in range(4) for first in (0, 4, 8, 12)]
    for task in tasks[:DEPTH]:
        submit(worker, *task)
    for number, task in enumerate(tasks):
        images, labels, result = worker.take()
        assert np.array_equal(images, expected(*task))
        assert labels.tolist() == [(16 * task[0] + place) % 10 for place in range(task[1], task[1] + 4)]
        assert (result.problems, result.statistics.samples) == ([], 4)
        if number + DEPTH < len(tasks):
            submit(worker, *tasks[number + DEPTH])


def test_a_killed_worker_is_replaced_and_nothing_is_lost(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    """Whether it dies at work, or while it waits."""
    tasks = [(shard, first) for shard in range(4) for first in (0, 4, 8, 12)]
    for task in tasks[:DEPTH]:
        submit(worker, *task)
    for number, task in enumerate(tasks):
        if number in (2, 9):
            os.kill(pid_of(worker), signal.SIGKILL)
        images, _, _ = worker.take()
        assert np.array_equal(images, expected(*task))
        if number + DEPTH < len(tasks):
            submit(worker, *tasks[number + DEPTH])
    warnings = capfd.readouterr().err.splitlines()
    assert warnings == ["warning: a worker that reads images ended by signal 9; another one takes its place."] * 2


def test_a_worker_that_is_killed_again_and_again_ends_the_run(worker: Worker) -> None:
    with pytest.raises(WorkerDiedError, match=r"ended by signal 9, for the 4th time.*data\.num_workers"):  # noqa: PT012
        for _ in range(MAX_RESTARTS + 1):
            os.kill(pid_of(worker), signal.SIGKILL)
            os.waitid(os.P_PID, pid_of(worker), os.WEXITED | os.WNOWAIT)  # it can answer no more
            submit(worker, 0, 0)
            worker.take()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_group_leave_it_alone(worker: Worker, number: signal.Signals) -> None:
    """torchrun and Ctrl-C signal the whole group; the rank finishes its step and needs its data for that."""
    submit(worker, 0, 0)
    worker.take()  # it has begun to listen by now
    pid = pid_of(worker)
    os.kill(pid, number)
    submit(worker, 1, 4)
    assert np.array_equal(worker.take()[0], expected(1, 4))
    assert pid_of(worker) == pid


def test_close_ends_it(worker: Worker) -> None:
    pid = pid_of(worker)
    assert alive(pid)
    worker.close()
    assert not alive(pid)
    worker._memory = os.open(os.devnull, os.O_RDONLY)  # for the fixture, which closes once more


def test_workers_end_with_a_rank_that_is_killed(manifest: Manifest) -> None:
    program = f"""
import time
from pathlib import Path
from distgan.data.shards.manifest import open_manifest
from distgan.data.reading.worker import SliceShape, Worker
workers = [Worker(SliceShape(4, 8, 1), open_manifest([Path({str(manifest.shards[0].path)!r})]).shards) for _ in range(2)]
print(*[worker._process.pid for worker in workers], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        pids = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(pids) == 2
        rank.kill()
        rank.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its rank"
        time.sleep(0.02)


def test_a_worker_needs_neither_torch_nor_joblib() -> None:
    """It is started with every rank, several times."""
    program = "import distgan.data.reading.worker_process, sys; print(sorted({'torch', 'joblib', 'webdataset'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"


def test_a_bug_in_a_worker_comes_with_its_traceback(manifest: Manifest, worker: Worker) -> None:
    worker.submit(np.full(4, 0), np.arange(100, 104))  # places that the shard does not have
    with pytest.raises(RuntimeError, match=r"A worker that reads images failed:(.|\n)*IndexError"):
        worker.take()


def test_reading_ahead_is_bounded(manifest: Manifest) -> None:
    """Each worker has DEPTH slices before it, no more."""
    plan = SamplePlan(np.full(4, 16), manifest.hash, 0, shuffle_window=2)
    slices = Reader(manifest, plan, BatchLayout(8, 1, 1, 0), 8, 1, num_workers=2)
    try:
        assert [len(worker._tasks) for worker in slices._workers] == [DEPTH, DEPTH]
        for _ in range(5):
            next(slices)
        assert [len(worker._tasks) for worker in slices._workers] == [DEPTH, DEPTH]
    finally:
        slices.close()
