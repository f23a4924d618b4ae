"""What each component is for, where it is about more than what every manifest has to be (test_manifests.py)."""

import re
from pathlib import Path

import botocore.session
import pytest

from distgan.config import Checkpoint
from tests.kubernetes.controllers import job_of, jobset_of
from tests.kubernetes.rendering import K8S, OPERATORS, OVERLAYS, of_kind, variant
from tests.kubernetes.test_manifests import config_of, container_of, environment_of, pod_of
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

QUEUE = "kueue.x-k8s.io/queue-name"
# What the nodes that a cloud takes back are labelled with, by the documentation of each, and the taints that are set on some.
SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
SPOT_TAINTS = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "nvidia.com/gpu": "present",
}
EC2_NOTICE_SECONDS = 120
SECRET = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_DEFAULT_REGION": "eu-central-1",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kueue_finds_the_queue_and_decides_when_it_starts(overlay: str) -> None:
    job = of_kind(variant(f"{overlay}+kueue"), "Job")
    assert (QUEUE in job["metadata"]["labels"], job["spec"]["suspend"]) == (True, True)
    assert QUEUE not in job["spec"]["template"]["metadata"]["labels"], "a queue of its own for each pod"
    bare = of_kind(variant(overlay), "Job")
    assert (QUEUE in bare["metadata"]["labels"], bare["spec"]["suspend"]) == (False, False)


@pytest.mark.parametrize("operator", OPERATORS)
def test_kueue_finds_the_queue_of_what_an_operator_runs(operator: str) -> None:
    jobset = jobset_of(variant(f"{operator}:elastic+all"))  # a JobSet of a TrainJob has the TrainJob's metadata here
    assert jobset is not None
    assert (QUEUE in jobset["metadata"]["labels"], jobset["spec"]["suspend"]) == (True, True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_spot_asks_for_such_nodes_and_for_no_other(overlay: str) -> None:
    """By the scheduler's rules: one term of the affinity has to hold, and every taint of the node has to be tolerated."""
    pod = pod_of(variant(f"{overlay}+spot"))
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    def is_wanted(labels: dict[str, str]) -> bool:
        holds = [all(labels.get(rule["key"]) in rule["values"] for rule in term["matchExpressions"]) for term in terms]
        assert all(rule["operator"] == "In" for term in terms for rule in term["matchExpressions"])
        return any(holds)

    assert all(is_wanted({key: value}) for key, value in SPOT_LABELS.items())
    assert not is_wanted({"karpenter.sh/capacity-type": "on-demand", "eks.amazonaws.com/capacityType": "ON_DEMAND"})
    tolerated = {
        (key, value)
        for key, value in SPOT_TAINTS.items()
        for found in pod["tolerations"]
        if found["key"] == key and found["effect"] == "NoSchedule" and (found["operator"] == "Exists" or found["value"] == value)
    }
    assert tolerated >= SPOT_TAINTS.items() - ({("nvidia.com/gpu", "present")} if overlay == "cpu-smoke" else set())


def test_spot_saves_within_the_notice_and_more_often(tmp_path: Path) -> None:
    manifests = variant("multi-node+spot")
    assert pod_of(manifests)["terminationGracePeriodSeconds"] < EC2_NOTICE_SECONDS
    assert config_of(manifests, tmp_path).checkpoint.every_kimg < Checkpoint().every_kimg
    assert job_of(manifests)["spec"]["backoffLimit"] >= 10000


def test_s3_takes_what_the_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Secret's keys, as a pod gets them, are what botocore takes credentials, endpoint and region from."""
    manifests = variant("multi-node+s3-data")
    references = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container_of(manifests)["env"] if "valueFrom" in entry}
    assert {reference["name"] for reference in references.values()} == {"distgan-s3"}
    assert {name for name, reference in references.items() if not reference.get("optional")} == set(list(SECRET)[:2])
    for name, reference in references.items():
        monkeypatch.setenv(name, SECRET[reference["key"]])
    session = botocore.session.Session()
    credentials = session.get_credentials()
    client = session.create_client("s3")
    found = (credentials.access_key, credentials.secret_key, credentials.token, client.meta.endpoint_url, client.meta.region_name)
    assert found == tuple(SECRET.values())


def test_s3_has_room_for_more(tmp_path: Path) -> None:
    cached = [config_of(variant(name), tmp_path).data.cache_gigabytes for name in ("multi-node", "multi-node+s3-data")]
    assert cached[0] < cached[1]  # and less than the volume, in test_manifests.py


def test_no_secret_is_written_down() -> None:
    """No Secret is rendered, and no environment variable that looks like one has a value."""
    for overlay in OVERLAYS:
        manifests = variant(f"{overlay}+all")
        assert "Secret" not in {manifest["kind"] for manifest in manifests}
        assert not [name for name in environment_of(manifests) if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]
    written = "".join(path.read_text() for path in K8S.rglob("*") if path.is_file())
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", written)
