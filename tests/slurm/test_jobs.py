"""launch/slurm.sbatch, submitted by the launcher to a real SLURM: it trains on two nodes and goes on over its time limit."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distgan import checkpoint
from distgan.launch.shipped import shipped
from tests.processes import until
from tests.slurm.cluster import NODES, TOOLS, Cluster
from tests.tools import missing

LACKING = missing(*TOOLS)
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"a cluster needs {LACKING}"),
    pytest.mark.skipif("DISTGAN_REQUIRE_TOOLS" not in os.environ and os.geteuid() != 0, reason="a cluster needs root"),
]

GUARD_SECONDS = 120
SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16", "--metrics.port", "0"]
ENDLESS = ["--train.total_kimg", "100000", "--checkpoint.every_kimg", "6.4"]
SUBMIT = [sys.executable, "-m", "distgan.launch", "slurm", "submit"]
ON_CPUS = ["--gpus-per-node", "0", "--ranks-per-node", "1", "--cpus-per-task", "1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def submit(cluster: Cluster, directory: Path, *arguments: str) -> tuple[str, Path]:
    """The job's number and its log, as the launcher tells them."""
    done = cluster.run(*SUBMIT, *ON_CPUS, *SMALL, *arguments, directory=directory)
    assert done.returncode == 0, done.stderr
    told = re.search(r"Job (\d+) \(distgan\) is submitted, and writes to (\S+)\.", done.stderr)
    assert told, done.stderr
    assert f"scancel {told[1]}" in done.stderr
    return told[1], Path(told[2])


def events(run: Path) -> list[dict]:
    log = run / "log.jsonl"
    return [line for line in map(json.loads, log.read_text().splitlines()) if "event" in line] if log.exists() else []


def test_a_run_saves_before_its_time_is_over_and_goes_on_until_it_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    job, log = submit(cluster, tmp_path, "--time", "1:00:00", "--stop-before", "60", "--run.dir", "run", *ENDLESS)
    run = tmp_path / "run"  # relative to where it was submitted

    def steps() -> list[int]:
        return checkpoint.steps(run / "checkpoints")

    until(steps, f"no checkpoint; see {log}", GUARD_SECONDS)
    # SLURM looks at all jobs every 30 s, and signals those whose time for it would come before it looks again.
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")
    cluster.wait(job, Restarts="1")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    first_sitting = steps()[-1]
    until(lambda: steps()[-1] > first_sitting, f"no checkpoint of a second sitting; see {log}", GUARD_SECONDS)
    cluster.run("scancel", job)
    cluster.wait(job, JobState="CANCELLED")
    until(lambda: cluster.is_idle, f"it goes on; see {log}", GUARD_SECONDS)

    assert (events(run)[0]["num_nodes"], events(run)[0]["num_ranks"]) == (2, 2)
    assert (events(run)[-1]["event"], cluster.job(job)["Restarts"]) == ("resume", "1")
    first, second = re.split(r"distgan: job \d+ on \S+, restart \d\n", log.read_text())[1:]
    for sitting in (first, second):
        assert "0: Stopped; the same command goes on" in sitting, sitting  # all ranks, together, though SLURM and the agent both tell them
        for node in range(len(NODES)):
            assert re.search(rf"^{node}: distgan\.launch: SIGTERM: training was saved at step \d+", sitting, re.MULTILINE), sitting
    assert "distgan: stopped with a checkpoint; requeued" in first
    assert "requeued" not in second


def test_a_wrong_configuration_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    job, log = submit(cluster, tmp_path, "--data.url", "/nowhere")
    cluster.wait(job, JobState="FAILED")
    found = cluster.job(job)
    assert (found["ExitCode"], found["Restarts"]) == ("2:0", "0")
    assert "data.url is '/nowhere'" in log.read_text()
    assert "mend it and submit again" in log.read_text()


def test_the_script_as_it_is_gives_each_node_its_gpus_and_cpus(cluster: Cluster, tmp_path: Path) -> None:
    """Handed to sbatch by a person. There are no real GPUs, so a stand-in for Python tells what it finds."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "GPUs $CUDA_VISIBLE_DEVICES; $(scontrol show step "$SLURM_JOB_ID.0" | grep -o "PerTask=.*"); $*"')
    python.chmod(0o755)
    script = str(shipped("launch/slurm.sbatch"))
    done = cluster.run("env", f"PYTHON={python}", "sbatch", "--parsable", script, "--config", "a b.yaml", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    cluster.wait(job, JobState="COMPLETED")
    lines = (tmp_path / f"distgan-{job}.log").read_text().splitlines()
    meeting = f"--nodes 2 --master-addr node-0 --master-port {20000 + int(job)}"
    for node in range(len(NODES)):
        task = f"-m distgan.launch multinode --node-rank {node} {meeting} --config a b.yaml"
        assert f"{node}: GPUs 0,1,2,3,4,5,6,7; PerTask=cpu:64; {task}" in lines
    assert lines[-1] == "distgan: done"


def test_a_refusal_of_sbatch_is_passed_on_in_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run(*SUBMIT, *ON_CPUS, *SMALL, "--partition", "nowhere", directory=tmp_path)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "sbatch refuses: invalid partition specified: nowhere" in sentence
