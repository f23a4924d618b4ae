"""The objects of the stand-in for an API server: how they are addressed, and what is refused about them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema

from tests.kubernetes.schemas import validate

Object = dict[str, Any]

RELEASE = "1.32"


@dataclass(frozen=True)
class Resource:
    """A kind of object, and how it is addressed."""

    group: str
    name: str
    kind: str
    short: str
    version: str = "v1"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        return f"{self.name}.{self.group}" if self.group else self.name


BUILT_IN = (
    Resource("", "namespaces", "Namespace", "ns"),
    Resource("", "pods", "Pod", "po"),
    Resource("", "services", "Service", "svc"),
    Resource("", "configmaps", "ConfigMap", "cm"),
    Resource("", "serviceaccounts", "ServiceAccount", "sa"),
    Resource("", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc"),
    Resource("batch", "jobs", "Job", "job"),
    Resource("networking.k8s.io", "networkpolicies", "NetworkPolicy", "netpol"),
)
OF_PROMETHEUS = (
    Resource("monitoring.coreos.com", "podmonitors", "PodMonitor", "pmon"),
    Resource("monitoring.coreos.com", "prometheusrules", "PrometheusRule", "promrule"),
)
# What an update may not change, by kind.
_IMMUTABLE: dict[str, Callable[[Object], Any]] = {
    "Job": lambda found: (found["spec"]["template"], found["spec"].get("completionMode"), found["spec"].get("podFailurePolicy")),
    "PersistentVolumeClaim": lambda found: {key: value for key, value in found["spec"].items() if key != "resources"},
}


class Refusal(Exception):  # noqa: N818 - it is an answer, as the API has it
    """What the server answers instead: a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code}
        super().__init__(message)


def check(found: Object) -> None:
    """As server-side apply and validation do, in their words.

    Raises:
        Refusal: it is not as it should be.
    """
    try:
        validate(found, RELEASE)
    except jsonschema.ValidationError as error:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path)
        if error.validator == "additionalProperties":
            unknown = sorted(error.instance.keys() - error.schema["properties"].keys())
            name = f"team/{found['metadata']['name']}; {found['apiVersion']}, Kind={found['kind']}"
            message = f"failed to create typed patch object ({name}): {path}.{unknown[0]}: field not declared in schema"
            raise Refusal(500, "", message) from None  # a server's fault, as servers have it: kubernetes/kubernetes#122480
        raise Refusal(422, "Invalid", f'{found["kind"]} "{found["metadata"]["name"]}" is invalid: {path}: {error.message}') from None


def refuse_conflict(resource: Resource, live: Object, sent: Object, manager: str) -> None:
    """Another manager owns it, or it changes what may not change.

    Raises:
        Refusal: it does.
    """
    name = live["metadata"]["name"]
    if others := [entry["manager"] for entry in live["metadata"].get("managedFields", []) if entry["manager"] != manager]:
        raise Refusal(409, "Conflict", f"Apply failed with 1 conflict: conflict with {others[0]!r}: .spec")
    fixed = _IMMUTABLE.get(resource.kind)
    if fixed is not None and fixed(live) != fixed(sent):
        raise Refusal(422, "Invalid", f'{resource.kind}.{resource.group} "{name}" is invalid: spec: Invalid value: field is immutable')


def is_selected(found: Object, query: dict[str, str]) -> bool:
    """By labelSelector ('a=b,c') and fieldSelector (metadata.name)."""
    labels = found["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    field, _, name = query.get("fieldSelector", "").partition("=")
    if field not in ("", "metadata.name"):
        raise Refusal(400, "BadRequest", f"field label not supported: {field}")
    return not field or found["metadata"]["name"] == name


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
