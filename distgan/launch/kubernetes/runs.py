"""The runs in a cluster: their Jobs, pods and volumes, found by the labels that the launcher gives them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from distgan.errors import InputError
from distgan.launch.kubernetes import run_name
from distgan.launch.kubernetes.changes import INSTANCE_LABEL, NAME_LABEL
from distgan.launch.kubernetes.kubectl import Kubectl, Manifest
from distgan.launch.kubernetes.rendering import CONTAINER

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def selector(name: str | None) -> str:
    """The labels of a run; None: of all runs."""
    return f"{NAME_LABEL}=distgan,{INSTANCE_LABEL}" + (f"={name}" if name else "")


@dataclass(frozen=True)
class Pod:
    """A pod of a run, as the server describes it."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest["metadata"]["name"]

    @property
    def index(self) -> int:
        metadata = self.manifest["metadata"]
        return int(metadata.get("labels", {}).get(_INDEX_LABEL) or metadata.get("annotations", {}).get(_INDEX_LABEL, 0))

    @property
    def created_seconds(self) -> float:
        """Since 1970."""
        return seconds(self.manifest["metadata"]["creationTimestamp"])

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded or Failed; Terminating while it is asked to end."""
        is_ending = "deletionTimestamp" in self.manifest["metadata"] and not self.has_ended
        return "Terminating" if is_ending else self.manifest.get("status", {}).get("phase", "Pending")

    @property
    def has_ended(self) -> bool:
        return self.manifest.get("status", {}).get("phase") in ("Succeeded", "Failed")

    @property
    def has_begun(self) -> bool:
        """Whether its container has a log."""
        return bool(self._state.keys() & {"running", "terminated"})

    @property
    def end(self) -> Manifest | None:
        """How its container ended: exitCode, message, finishedAt; None: it has not, or never began."""
        return self._state.get("terminated")

    @property
    def waits_for(self) -> str:
        """Why it has not begun; empty: it has, or nobody says."""
        waiting = self._state.get("waiting", {})
        unscheduled = self._condition("PodScheduled", "False")
        texts = [waiting.get("reason"), waiting.get("message")] if waiting else [unscheduled.get("reason"), unscheduled.get("message")]
        return ": ".join(text for text in texts if text)

    @property
    def disruption(self) -> str:
        """Why the cluster took it away, such as PreemptionByScheduler; empty: it did not."""
        return self._condition("DisruptionTarget", "True").get("reason", "")

    @property
    def machine(self) -> str:
        """Where it runs; empty: nowhere yet."""
        return self.manifest["spec"].get("nodeName", "")

    @property
    def _state(self) -> Manifest:
        statuses = self.manifest.get("status", {}).get("containerStatuses", [])
        return next((status["state"] for status in statuses if status["name"] == CONTAINER), {})

    def _condition(self, kind: str, status: str) -> Manifest:
        return condition(self.manifest, kind, status) or {}


@dataclass(frozen=True)
class Run:
    """Of a run what is there.

    Args:
        job: None: it was stopped, or ended long ago.
        pods: by index, the newest of each last.
        volumes: the names of its PersistentVolumeClaims.
    """

    name: str
    job: Manifest | None = None
    pods: Sequence[Pod] = ()
    volumes: Sequence[str] = ()

    @property
    def end(self) -> Manifest | None:
        """The condition by which its Job has ended; None: it has not, or is not there."""
        return ended(self.job) if self.job else None

    def pod(self, index: int) -> Pod | None:
        """The newest of an index."""
        return next((pod for pod in reversed(self.pods) if pod.index == index), None)


def find_all(kubectl: Kubectl, name: str | None = None) -> list[Run]:
    """All runs, or those of a name; raises as `Kubectl.run`."""
    objects = kubectl.get("jobs,pods,persistentvolumeclaims", "--selector", selector(name))
    runs = []
    for instance in sorted({found["metadata"]["labels"][INSTANCE_LABEL] for found in objects}):
        of_run = [found for found in objects if found["metadata"]["labels"][INSTANCE_LABEL] == instance]
        pods = [Pod(found) for found in of_run if found["kind"] == "Pod"]
        runs.append(
            Run(
                instance,
                next((found for found in of_run if found["kind"] == "Job"), None),
                sorted(pods, key=lambda pod: (pod.index, pod.created_seconds)),
                [found["metadata"]["name"] for found in of_run if found["kind"] == "PersistentVolumeClaim"],
            )
        )
    return runs


def find(kubectl: Kubectl, name: str) -> Run:
    """A run; raises as `Kubectl.run`, and:

    Raises:
        InputError: there is none of this name.
    """
    if problems := run_name.problems(name, "NAME"):
        raise InputError(problems)
    if not (found := find_all(kubectl, name)):
        where = f"namespace {kubectl.namespace!r}" if kubectl.namespace else "the namespace of your kubeconfig"
        raise InputError(f"NAME is {name!r}, but there is no such run in {where}; give --namespace, or one that `status` lists.")
    return found[0]


def ended(job: Manifest) -> Manifest | None:
    """The condition by which a Job has ended; None: it has not."""
    return condition(job, "Complete", "True") or condition(job, "Failed", "True")


def condition(manifest: Manifest, kind: str, status: str) -> Manifest | None:
    """An object's condition, if it has this status."""
    conditions = manifest.get("status", {}).get("conditions", [])
    return next((found for found in conditions if (found["type"], found["status"]) == (kind, status)), None)


def seconds(timestamp: str) -> float:
    """'2026-01-31T12:00:00Z' -> seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


def age(timestamp: str) -> str:
    """How long ago that was: '45s', '12m', '3h', '2d'."""
    passed = max(0, round(time.time() - seconds(timestamp)))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= 2 * length:
            return f"{passed // length}{unit}"
    return f"{passed}s"
