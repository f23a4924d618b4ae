"""The manifests: what a hardened cluster asks for, and what the entry point relies on, with every component and under every operator."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan.config import Metrics, TrainConfig
from distgan.launch import worker
from distgan.launch.__main__ import parse
from distgan.launch.job import NodeCount, checked
from distgan.launch.names import rank_zero
from distgan.process import EXIT_STOPPED, EXIT_USAGE
from tests.kubernetes.controllers import job_of, service_of
from tests.kubernetes.rendering import (
    COMPONENTS,
    K8S,
    OPERATORS,
    OVERLAYS,
    VARIANTS,
    Manifests,
    num_bytes,
    of_kind,
    rendered,
    variant,
    write_kustomization,
)
from tests.kubernetes.schemas import releases as releases
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

RANKS_WITHOUT_GPUS = 2  # those of cpu-smoke


@pytest.fixture(params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return variant(request.param)


def pod_of(manifests: Manifests) -> dict[str, Any]:
    return job_of(manifests)["spec"]["template"]["spec"]


def container_of(manifests: Manifests) -> dict[str, Any]:
    (container,) = pod_of(manifests)["containers"]
    return container


def environment_of(manifests: Manifests) -> dict[str, str]:
    """But for what comes from a Secret."""
    return {entry["name"]: entry["value"] for entry in container_of(manifests)["env"] if "value" in entry}


def config_of(manifests: Manifests, directory: Path) -> TrainConfig:
    """As `launch worker` reads and checks it, for every number of nodes that the run may have."""
    container = container_of(manifests)
    (files,) = [manifest["data"] for manifest in manifests if "recipe.yaml" in manifest.get("data", {})]
    for name, content in files.items():
        (directory / name).write_text(content)
    arguments = [argument.replace("$(NODES)", environment_of(manifests)["NODES"]) for argument in container["args"]]
    options = parse(["worker", *(argument.replace("/etc/distgan", str(directory)) for argument in arguments)])
    num_ranks = int(container["resources"]["limits"].get("nvidia.com/gpu", RANKS_WITHOUT_GPUS))
    return checked(options.settings, NodeCount.parse(options.nodes), num_ranks)


def test_pods_meet_the_restricted_standard(manifests: Manifests) -> None:
    """Pod Security Standards, "restricted"; and more: a root that cannot be written, no token, a bound for every volume in memory."""
    pod, container = pod_of(manifests), container_of(manifests)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 10000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "persistentVolumeClaim", "configMap", "emptyDir"}
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)


def test_shared_memory_fits_into_the_memory_limit(manifests: Manifests) -> None:
    (shared,) = [volume for volume in pod_of(manifests)["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    assert {"name": shared["name"], "mountPath": "/dev/shm"} in container_of(manifests)["volumeMounts"]  # noqa: S108
    assert num_bytes(shared["emptyDir"]["sizeLimit"]) < num_bytes(container_of(manifests)["resources"]["limits"]["memory"])


def test_a_pod_has_time_to_save(manifests: Manifests) -> None:
    """torchrun kills its ranks TORCH_ELASTIC_SHUTDOWN_TIMEOUT after SIGTERM, and the kubelet kills torchrun after the grace period."""
    assert 60 <= int(environment_of(manifests)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod_of(manifests)["terminationGracePeriodSeconds"]


def test_exit_codes_mean_what_the_entry_point_means(manifests: Manifests) -> None:
    """And a JobSet takes the Job's word for it: without a failurePolicy it restarts nothing, and fails when the Job does."""
    rules = job_of(manifests)["spec"]["podFailurePolicy"]["rules"]
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {EXIT_USAGE: "FailJob", EXIT_STOPPED: "Ignore"}
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {container_of(manifests)["name"]}
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in rules
    assert pod_of(manifests)["restartPolicy"] == "Never"
    for manifest in manifests:
        spec = manifest["spec"] if manifest["kind"] == "JobSet" else manifest.get("spec", {}).get("template", {}).get("spec", {})
        assert "failurePolicy" not in spec


def test_the_command_is_one_that_the_program_takes(manifests: Manifests, tmp_path: Path) -> None:
    container = container_of(manifests)
    assert container["command"] == ["python", "-m", "distgan.launch", "worker"]
    config = config_of(manifests, tmp_path)
    assert config.metrics.host == "0.0.0.0"  # noqa: S104 (the NetworkPolicy says who comes in)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(config.run.dir).parent), environment_of(manifests)["HOME"], environment_of(manifests)["XDG_CACHE_HOME"]} <= mounts
    (cache,) = [volume for volume in pod_of(manifests)["volumes"] if volume["name"] == "cache"]
    if num_bytes(cache["emptyDir"]["sizeLimit"]) > 2**30:  # not that of cpu-smoke, which reads the embedded digits
        assert config.data.cache_gigabytes * 1e9 < num_bytes(cache["emptyDir"]["sizeLimit"])


def test_ports_are_the_programs(manifests: Manifests) -> None:
    port = Metrics().port
    expected = {"rendezvous": worker.MASTER_PORT, "metrics": port}
    num_ranks = int(container_of(manifests)["resources"]["limits"].get("nvidia.com/gpu", 1))
    of_ranks = {f"metrics-{rank}": port + rank for rank in range(1, num_ranks)}
    assert {entry["name"]: entry["containerPort"] for entry in container_of(manifests)["ports"]} == expected | of_ranks
    (open_,) = [port for rule in of_kind(manifests, "NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", ())]
    assert (open_["port"], open_["endPort"] >= port + num_ranks - 1) == (port, True)
    if service := [manifest for manifest in manifests if manifest["kind"] == "Service"]:
        assert {entry["name"]: entry["port"] for entry in service[0]["spec"]["ports"]} == expected


def check_names(manifests: Manifests) -> None:
    """Pods find each other: the Service is the pods' subdomain, and it and the policy select the pods of this run and of no other."""
    job, service, policy = job_of(manifests), service_of(manifests), of_kind(manifests, "NetworkPolicy")
    pod = pod_of(manifests)
    of_run = service["spec"]["selector"]  # of a label that a controller gives the pods
    labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert of_run.items() <= labels.items()
    assert of_run.keys() <= {"batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name"}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert policy["spec"]["podSelector"] == {"matchLabels": of_run}
    assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": {"matchLabels": of_run}}]}
    assert pod["serviceAccountName"] == of_kind(manifests, "ServiceAccount")["metadata"]["name"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [of_kind(manifests, "PersistentVolumeClaim")["metadata"]["name"]]
    recipes = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert recipes == [recipe["metadata"]["name"] for recipe in manifests if "recipe.yaml" in recipe.get("data", {})]
    most = NodeCount.parse(environment_of(manifests)["NODES"]).most
    assert job["spec"]["parallelism"] == job["spec"]["completions"] == most
    domain = f"{pod['subdomain']}.team.svc.cluster.local"
    assert pod["subdomain"] == service["metadata"]["name"]
    for index in range(most):
        assert rank_zero(f"{job['metadata']['name']}-{index}.{domain}", index) == f"{job['metadata']['name']}-0.{domain}"


def test_names_agree(manifests: Manifests) -> None:
    check_names(manifests)


def test_monitoring_finds_the_pods_and_their_ports(manifests: Manifests) -> None:
    for monitor in (manifest["spec"] for manifest in manifests if manifest["kind"] == "PodMonitor"):
        labels = job_of(manifests)["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        served = {entry["name"] for entry in container_of(manifests)["ports"]} - {"rendezvous"}
        assert served <= {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}


EVERYTHING = [f"components/{component}" for component in COMPONENTS]
AS_OPERATORS = [[], *([f"operators/{operator}/component"] for operator in OPERATORS)]


@pytest.mark.parametrize("operator", AS_OPERATORS, ids=lambda paths: paths[0].split("/")[1] if paths else "job")
@pytest.mark.parametrize("suffix", ["", "-2"])
@pytest.mark.parametrize("name", OVERLAYS)
def test_names_agree_after_renames_from_outside(name: str, suffix: str, operator: list[str], tmp_path: Path) -> None:
    """An inner kustomization gives a prefix and a namespace, and an outer one a suffix, or none, and another image."""
    for directory in ("inner", "outer"):
        (tmp_path / directory).mkdir()
    write_kustomization(tmp_path / "inner", name, EVERYTHING, namePrefix="my-", namespace="team")
    image = {"name": "distgan", "newName": "registry/distgan", "newTag": "1"}
    write_kustomization(tmp_path / "outer", str(tmp_path / "inner"), operator, nameSuffix=suffix, images=[image])
    manifests = rendered(tmp_path / "outer")
    check_names(manifests)
    runs = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] in ("Job", "JobSet", "TrainJob", "TrainingRuntime")}
    assert runs == {f"my-distgan{suffix}"}
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"team"}
    assert container_of(manifests)["image"] == "registry/distgan:1"


@pytest.mark.parametrize(("overlay", "marked", "least"), [("multi-node", 2, 5), ("deepspeed", 2, 5), ("elastic", 4, 1)])
def test_the_number_of_nodes_is_one_line(overlay: str, marked: int, least: int, tmp_path: Path) -> None:
    """That which is marked, in an overlay or in the one that it is made of."""
    shutil.copytree(K8S, tmp_path / "k8s")
    line = re.compile(rf"value: {marked}( # .*: this line and no other)$", re.MULTILINE)
    for name in ("elastic",) if overlay == "elastic" else ("multi-node",):
        path = tmp_path / "k8s" / "overlays" / name / "kustomization.yaml"
        text, count = line.subn(r"value: 5\1", path.read_text())
        assert count == 1
        path.write_text(text)
    manifests = rendered(tmp_path / "k8s" / "overlays" / overlay)
    check_names(manifests)
    assert job_of(manifests)["spec"]["completions"] == 5
    assert NodeCount.parse(environment_of(manifests)["NODES"]) == NodeCount(least, 5)


def test_settings_of_overlays(tmp_path: Path) -> None:
    """Those that are not the recipe's."""
    engine = config_of(variant("deepspeed"), tmp_path).engine
    assert (engine.name, engine.zero_stage) == ("deepspeed", 2)
    assert yaml.safe_load(of_kind(variant("elastic"), "ConfigMap")["data"]["recipe.yaml"])["train"]["batch_size"] == 192


def test_an_elastic_run_is_done_when_node_0_is() -> None:
    """A node that comes after that finds nobody, and the Job would wait for its index for ever."""
    assert job_of(variant("elastic"))["spec"]["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
