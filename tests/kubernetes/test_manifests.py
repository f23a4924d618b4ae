"""The manifests: what the API servers take, what a hardened cluster asks for, and what the entry point relies on."""

import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from distgan.cli import parse_command
from distgan.config import Metrics
from distgan.launch import worker
from distgan.launch.__main__ import build_parser
from distgan.process import EXIT_STOPPED, EXIT_USAGE
from tests.kubernetes.rendering import K8S, OVERLAYS, missing, num_bytes, of_kind, overlay, rendered

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

OLDEST = (1, 29)


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return overlay(request.param)


def pod_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return of_kind(manifests, "Job")["spec"]["template"]["spec"]


def container_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (container,) = pod_of(manifests)["containers"]
    return container


def environment_of(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container_of(manifests)["env"]}


def releases() -> list[str]:
    """1.29 and every later one whose schemas are installed."""
    names = os.listdir(Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema")
    found = {tuple(map(int, match.groups())) for name in names if (match := re.match(r"v?(\d+)\.(\d+)", name))}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= OLDEST]


def test_there_are_schemas_of_many_releases() -> None:
    assert releases()[0] == "1.29"
    assert len(releases()) >= 5


@pytest.mark.parametrize("release", releases())
def test_every_release_takes_them(manifests: list[dict[str, Any]], release: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_a_misspelt_field_would_be_seen(manifests: list[dict[str, Any]]) -> None:
    job = of_kind(manifests, "Job")
    job["spec"]["backofLimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.29", strict=True)


def test_pods_meet_the_restricted_standard(manifests: list[dict[str, Any]]) -> None:
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


def test_shared_memory_fits_into_the_memory_limit(manifests: list[dict[str, Any]]) -> None:
    (shared,) = [volume for volume in pod_of(manifests)["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    assert {"name": shared["name"], "mountPath": "/dev/shm"} in container_of(manifests)["volumeMounts"]  # noqa: S108
    assert num_bytes(shared["emptyDir"]["sizeLimit"]) < num_bytes(container_of(manifests)["resources"]["limits"]["memory"])


def test_a_pod_has_time_to_save(manifests: list[dict[str, Any]]) -> None:
    """torchrun kills its ranks TORCH_ELASTIC_SHUTDOWN_TIMEOUT after SIGTERM, and the kubelet kills torchrun after the grace period."""
    assert 60 <= int(environment_of(manifests)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod_of(manifests)["terminationGracePeriodSeconds"]


def test_exit_codes_mean_what_the_entry_point_means(manifests: list[dict[str, Any]]) -> None:
    rules = of_kind(manifests, "Job")["spec"]["podFailurePolicy"]["rules"]
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {EXIT_USAGE: "FailJob", EXIT_STOPPED: "Ignore"}
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {container_of(manifests)["name"]}


def test_the_command_is_one_that_the_program_takes(manifests: list[dict[str, Any]]) -> None:
    container = container_of(manifests)
    assert container["command"] == ["python", "-m", "distgan.launch", "worker"]
    arguments = [argument.replace("$(NODES)", environment_of(manifests)["NODES"]) for argument in container["args"]]
    options = build_parser().parse_args(["worker", *arguments])
    assert options.nodes == of_kind(manifests, "Job")["spec"]["completions"]
    recipe = K8S / "base" / "recipe.yaml"
    settings = [str(recipe) if setting == "/etc/distgan/recipe.yaml" else setting for setting in options.settings]
    config = parse_command(settings).config
    assert config.metrics.host == "0.0.0.0"  # noqa: S104 (the NetworkPolicy says who comes in)
    assert of_kind(manifests, "ConfigMap")["data"] == {"recipe.yaml": recipe.read_text()}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(config.run.dir).parent), environment_of(manifests)["HOME"], environment_of(manifests)["XDG_CACHE_HOME"]} <= mounts


def test_ports_are_the_programs(manifests: list[dict[str, Any]]) -> None:
    port = Metrics().port
    expected = {"rendezvous": worker.MASTER_PORT, "metrics": port}
    num_ranks = int(container_of(manifests)["resources"]["limits"].get("nvidia.com/gpu", 1))
    of_ranks = {f"metrics-{rank}": port + rank for rank in range(1, num_ranks)}
    assert {entry["name"]: entry["containerPort"] for entry in container_of(manifests)["ports"]} == expected | of_ranks
    assert {entry["name"]: entry["port"] for entry in of_kind(manifests, "Service")["spec"]["ports"]} == expected
    (open_,) = [port for rule in of_kind(manifests, "NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", ())]
    assert (open_["port"], open_["endPort"] >= port + num_ranks - 1) == (port, True)


def check_names(manifests: list[dict[str, Any]]) -> None:
    """Pods find each other: the Service is the pods' subdomain, and it and the policy select the pods of this Job and of no other."""
    job, service, policy = (of_kind(manifests, kind) for kind in ("Job", "Service", "NetworkPolicy"))
    of_job = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    pod = pod_of(manifests)
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == of_job
    assert policy["spec"]["podSelector"] == {"matchLabels": of_job}
    assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": {"matchLabels": of_job}}]}
    assert pod["serviceAccountName"] == of_kind(manifests, "ServiceAccount")["metadata"]["name"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [of_kind(manifests, "PersistentVolumeClaim")["metadata"]["name"]]
    recipes = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert recipes == [of_kind(manifests, "ConfigMap")["metadata"]["name"]]
    assert job["spec"]["parallelism"] == job["spec"]["completions"] == int(environment_of(manifests)["NODES"])


def test_names_agree(manifests: list[dict[str, Any]]) -> None:
    check_names(manifests)


@pytest.mark.parametrize("name", OVERLAYS)
def test_monitoring_joins_every_overlay(name: str, tmp_path: Path) -> None:
    """And finds the pods and their ports there."""
    relative = {part: os.path.relpath(K8S / part, tmp_path.resolve()) for part in (f"overlays/{name}", "components/monitoring")}
    outer = {"resources": [relative[f"overlays/{name}"]], "components": [relative["components/monitoring"]]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(outer))
    manifests = rendered(tmp_path)
    check_names(manifests)
    monitor = of_kind(manifests, "PodMonitor")["spec"]
    labels = of_kind(manifests, "Job")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    served = {entry["name"] for entry in container_of(manifests)["ports"]} - {"rendezvous"}
    assert served <= {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_agree_after_a_rename_from_outside(name: str, tmp_path: Path) -> None:
    """An outer kustomization in another directory gives a prefix, a suffix and a namespace."""
    relative = os.path.relpath(K8S / "overlays" / name, tmp_path.resolve())
    outer = {"namePrefix": "my-", "nameSuffix": "-2", "namespace": "team", "resources": [relative]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(outer))
    manifests = rendered(tmp_path)
    check_names(manifests)
    assert of_kind(manifests, "Job")["metadata"]["name"] == "my-distgan-2"
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"team"}


def test_the_number_of_nodes_is_one_line(tmp_path: Path) -> None:
    """Of the overlay for several nodes."""
    source = (K8S / "overlays" / "multi-node" / "kustomization.yaml").read_text()
    assert len(re.findall(r"value: 2\b", source)) == 1
    relative = os.path.relpath(K8S / "overlays" / "single-node", tmp_path.resolve())
    changed = source.replace("value: 2", "value: 5").replace("../single-node", relative)
    (tmp_path / "kustomization.yaml").write_text(changed)
    manifests = rendered(tmp_path)
    check_names(manifests)
    assert of_kind(manifests, "Job")["spec"]["completions"] == 5
