"""The rendered Job, run: three hardened pods in networks of their own train together, and end as their exit codes promise."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan import checkpoint
from tests.kubernetes.cluster import Cluster, Pod
from tests.kubernetes.prometheus import scraping
from tests.kubernetes.rendering import K8S, of_kind, rendered
from tests.kubernetes.test_alerts import RULES
from tests.processes import until
from tests.tools import missing

LACKING = missing("ip", "runc", "kubectl", "prometheus")
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"pods need {LACKING}"),
    pytest.mark.skipif("DISTGAN_REQUIRE_TOOLS" not in os.environ and os.geteuid() != 0, reason="pods need root"),
]

NODES = 3
GUARD_SECONDS = 150
RECIPE = {
    "train": {"total_kimg": 1e6, "batch_size": 48},
    "model": {"name": "mlp", "generator_sizes": [16], "discriminator_sizes": [16]},
    "checkpoint": {"every_kimg": 4.8},
    "metrics": {"log_every_kimg": 0.48},
}


def manifests_for(directory: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The smoke test on three nodes of one rank, with another recipe: a kustomization as a user would write it."""
    several = yaml.safe_load((K8S / "overlays" / "multi-node" / "kustomization.yaml").read_text())
    (nodes,) = several["patches"]
    nodes["patch"] = nodes["patch"].replace("value: 2", f"value: {NODES}")
    one_rank = {
        "target": {"kind": "Job", "name": "distgan"},
        "patch": '- {op: replace, path: /spec/template/spec/containers/0/args/1, value: "1"}',
    }
    outer = {
        "namePrefix": "my-",
        "resources": [os.path.relpath(K8S / "overlays" / "cpu-smoke", directory.resolve())],
        "patches": [nodes, one_rank],
        "replacements": several["replacements"],
        "configMapGenerator": [{"name": "distgan-recipe", "behavior": "merge", "files": ["recipe.yaml"]}],
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(outer))
    return rendered(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the volumes lie: the containers' user has to get there, who may not enter pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="distgan-pods-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def cluster(place: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(place, manifests_for(tmp_path, RECIPE)) as cluster:
        yield cluster


def logs(pods: list[Pod]) -> str:
    return "\n\n".join(f"pod {pod.index}:\n{pod.log.read_text()[-3000:]}" for pod in pods)


def lines(cluster: Cluster) -> list[dict[str, Any]]:
    path = cluster.runs / "run" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(cluster: Cluster) -> list[int]:
    return checkpoint.steps(cluster.runs / "run" / "checkpoints")


def await_training(cluster: Cluster, pods: list[Pod], num_checkpoints: int = 1) -> None:
    first = steps(cluster)[-1] if steps(cluster) else 0

    def has_saved() -> bool:
        assert all(pod.is_running for pod in pods), logs(pods)
        return any(step > first for step in steps(cluster))

    for _ in range(num_checkpoints):
        until(has_saved, "no checkpoint", GUARD_SECONDS)


def test_three_pods_train_and_outlive_the_loss_of_one(cluster: Cluster, tmp_path: Path) -> None:
    """One is killed: all end, none of it stops the Job, and three new ones go on from the checkpoint.

    A Prometheus outside of the pods' networks sees all of them, and the alerts that an hour cannot raise stay silent.
    """
    pods = cluster.start_all()
    await_training(cluster, pods)
    targets = [f"{cluster.address(index)}:9400" for index in range(NODES)]
    with scraping(tmp_path / "prometheus", targets, RULES) as prometheus:
        until(lambda: prometheus.value("count(rate(distgan_images_total[10s]) > 0)") == NODES, "not all are scraped", GUARD_SECONDS)
        assert prometheus.value("sum(up)") == NODES
        assert {sample["metric"]["instance"] for sample in prometheus.query("distgan_step_seconds_count > 0")} == set(targets)
        assert prometheus.value("count(distgan_last_checkpoint_timestamp_seconds > 0)") == 1  # rank 0 saves
        assert prometheus.query('ALERTS{alertstate="firing"}') == []
    assert lines(cluster)[0]["event"] == "start"
    pods[1].kill("KILL")
    codes = [pod.wait(GUARD_SECONDS) for pod in pods]
    assert codes[1] == 128 + 9
    assert {cluster.action(code) for code in codes} == {"Count"}, logs(pods)
    before = steps(cluster)[-1]
    again = cluster.start_all()
    await_training(cluster, again)
    assert any(line.get("event") == "resume" for line in lines(cluster)), logs(again)
    assert steps(cluster)[-1] > before


def test_pods_that_are_told_to_end_save_first(cluster: Cluster) -> None:
    """As by a drain of all nodes; the grace period is not needed."""
    pods = cluster.start_all()
    await_training(cluster, pods)
    for pod in pods:
        pod.kill("TERM")
    codes = [pod.wait(cluster.spec["template"]["spec"]["terminationGracePeriodSeconds"]) for pod in pods]
    assert [cluster.action(code) for code in codes] == ["Ignore"] * NODES, logs(pods)
    assert codes == [75] * NODES
    assert f"saved at step {steps(cluster)[-1]}" in pods[0].message.read_text()


def test_names_that_appear_late(cluster: Cluster) -> None:
    """Node 0 is scheduled last, and the name server learns of it later still."""
    early = [cluster.start(index, names_known=False) for index in (2, 1)]
    until(lambda: all("to resolve" in pod.log.read_text() for pod in early), "nobody waits", GUARD_SECONDS)
    pods = [cluster.start(0), *early]
    for pod in early:
        pod.learn_names()
    await_training(cluster, pods)


def test_a_wrong_configuration_is_not_tried_again(place: Path, tmp_path: Path) -> None:
    wrong = RECIPE | {"data": {"url": "/data/nowhere"}}
    with Cluster(place, manifests_for(tmp_path, wrong)) as cluster:
        pods = cluster.start_all()
        assert any(cluster.action(pod.wait(GUARD_SECONDS)) == "FailJob" for pod in pods), logs(pods)
        assert "data.url is '/data/nowhere'" in logs(pods)


def test_the_policy_is_read_as_the_job_controller_reads_it(cluster: Cluster) -> None:
    assert [cluster.action(code) for code in (1, 2, 75, 137)] == ["Count", "FailJob", "Ignore", "Count"]
    assert of_kind(cluster.manifests, "Job")["metadata"]["name"] == "my-distgan"
