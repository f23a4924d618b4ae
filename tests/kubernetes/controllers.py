"""What the controllers of JobSet and of Kubeflow Trainer make of what they are given, so that the Job behind it can be judged as any other.

As their sources have it: constructJob, GenJobName and createHeadlessSvcIfNecessary of kubernetes-sigs/jobset v0.12.0 (pkg/controllers,
pkg/util/placement), and the plugins jobset and plainml of kubeflow/trainer v2.3.0 (pkg/runtime/framework/plugins).
"""

import copy
from typing import Any

from tests.kubernetes.rendering import Manifests, of_kind

Manifest = dict[str, Any]

JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
_ANCESTOR = "trainer.kubeflow.org/trainjob-ancestor-step"


def jobset_of(manifests: Manifests) -> Manifest | None:
    """The JobSet that runs; None: the run is a plain Job."""
    kinds = {manifest["kind"] for manifest in manifests}
    if "JobSet" in kinds:
        return of_kind(manifests, "JobSet")
    if "TrainJob" in kinds:
        return _of_trainjob(of_kind(manifests, "TrainJob"), of_kind(manifests, "TrainingRuntime"))
    return None


def job_of(manifests: Manifests) -> Manifest:
    """The Job whose pods train."""
    jobset = jobset_of(manifests)
    if jobset is None:
        return of_kind(manifests, "Job")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    template = copy.deepcopy(replicated["template"])
    name = f"{jobset['metadata']['name']}-{replicated['name']}-0"
    labels = {JOBSET_NAME: jobset["metadata"]["name"], "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"]}
    pods = template["spec"]["template"]
    pods["metadata"]["labels"] |= labels
    pods["spec"]["subdomain"] = jobset["metadata"]["name"]
    template["spec"]["suspend"] = jobset["spec"].get("suspend", False)
    metadata = jobset["metadata"] | {"name": name, "labels": labels | template.get("metadata", {}).get("labels", {})}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def service_of(manifests: Manifests) -> Manifest:
    """The headless Service that gives the pods their names."""
    jobset = jobset_of(manifests)
    if jobset is None:
        return of_kind(manifests, "Service")
    assert "Service" not in {manifest["kind"] for manifest in manifests}, "it would be taken for the JobSet's own"
    spec = {"clusterIP": "None", "selector": {JOBSET_NAME: jobset["metadata"]["name"]}, "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": jobset["metadata"]["name"]}, "spec": spec}


def _of_trainjob(trainjob: Manifest, runtime: Manifest) -> Manifest:
    reference = {"apiGroup": runtime["apiVersion"].partition("/")[0], "kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    assert trainjob["spec"]["runtimeRef"] == reference
    spec = copy.deepcopy(runtime["spec"]["template"]["spec"])
    (replicated,) = spec["replicatedJobs"]
    assert replicated["template"]["metadata"]["labels"][_ANCESTOR] == "trainer"
    job = replicated["template"]["spec"]
    names = [container["name"] for container in job["template"]["spec"]["containers"]]
    assert "node" in names, "the webhook of TrainingRuntimes would refuse it"
    job["parallelism"] = job["completions"] = runtime["spec"]["mlPolicy"]["numNodes"]
    spec["suspend"] = trainjob["spec"]["suspend"]
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": trainjob["metadata"], "spec": spec}
