"""The rendered elastic Job, run: hardened pods go on without one that is lost, and with one that comes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.rendering import K8S, Manifests, rendered, write_kustomization
from tests.kubernetes.test_pods import GUARD_SECONDS, RECIPE, await_training, lines
from tests.kubernetes.test_pods import place as place
from tests.processes import until
from tests.tools import missing

LACKING = missing("ip", "runc", "kubectl")
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"pods need {LACKING}"),
    pytest.mark.skipif("DISTGAN_REQUIRE_TOOLS" not in os.environ and os.geteuid() != 0, reason="pods need root"),
]


def manifests_for(directory: Path) -> Manifests:
    """The smoke test with what makes the overlay elastic, on one or two nodes of one rank."""
    elastic = yaml.safe_load((K8S / "overlays" / "elastic" / "kustomization.yaml").read_text())
    elastic["patches"][0]["patch"] = elastic["patches"][0]["patch"].replace("value: 4", "value: 2")
    one_rank = '- {op: replace, path: /spec/template/spec/containers/0/args/1, value: "1"}'
    (directory / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write_kustomization(
        directory,
        "cpu-smoke",
        patches=[*elastic["patches"], {"target": {"kind": "Job"}, "patch": one_rank}],
        replacements=elastic["replacements"],
        configMapGenerator=elastic["configMapGenerator"],
    )
    return rendered(directory)


@pytest.fixture
def cluster(place: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(place, manifests_for(tmp_path)) as cluster:
        yield cluster


def num_ranks(cluster: Cluster) -> int:
    """With which training began last."""
    found = [line["num_ranks"] for line in lines(cluster) if line.get("event") in ("start", "resume")]
    return found[-1] if found else 0


def test_a_pod_goes_on_without_one_that_is_lost_and_takes_in_one_that_comes(cluster: Cluster) -> None:
    stays, lost = cluster.start_all()
    await_training(cluster, [stays, lost])
    assert num_ranks(cluster) == 2
    lost.kill("KILL")
    until(lambda: num_ranks(cluster) == 1, "the other does not go on", GUARD_SECONDS)
    await_training(cluster, [stays])
    assert cluster.action(lost.wait(GUARD_SECONDS)) == "Count"
    comes = cluster.start(lost.index)
    until(lambda: num_ranks(cluster) == 2, "the new one is not taken in", GUARD_SECONDS)
    await_training(cluster, [stays, comes])
