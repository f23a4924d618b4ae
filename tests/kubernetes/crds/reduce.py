"""Make a strict JSON schema of a CustomResourceDefinition: python tests/kubernetes/crds/reduce.py CRD.yaml REPOSITORY@RELEASE > KIND.json

Fields that are not named are refused, as by a server that validates strictly. Left out are descriptions, defaults, the status, rules in
CEL, which no validator of JSON schemas can evaluate, and what the manifests of k8s/ do not use (`_LEFT_OUT`).
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

_LEFT_OUT = {
    "JobSet": ("spec.volumeClaimPolicies", "spec.replicatedJobs.template"),
    "PodMonitor": tuple(
        f"spec.podMetricsEndpoints.{name}"
        for name in ("authorization", "basicAuth", "bearerTokenSecret", "oauth2", "tlsConfig", "noProxy", "proxyConnectHeader", "proxyUrl")
    ),
    "TrainJob": ("spec.initializer", "spec.runtimePatches", "spec.trainer"),
    "TrainingRuntime": ("spec.podGroupPolicy", "spec.template.spec.volumeClaimPolicies", "spec.template.spec.replicatedJobs.template"),
}
# What stands in their place: a Job's template is held against the schemas of Kubernetes.
_TEMPLATE = {"$comment": "metadata and spec of a batch/v1 Job, which are validated as such", "type": "object"}
_METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
_KEPT = {"type", "enum", "pattern", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems"}


def reduced(crd: dict[str, Any], source: str) -> dict[str, Any]:
    """The schema of the version that is stored, of objects without a status."""
    (version,) = [version for version in crd["spec"]["versions"] if version["storage"]]
    kind = crd["spec"]["names"]["kind"]
    schema = _strict(version["schema"]["openAPIV3Schema"], "", _LEFT_OUT.get(kind, ()))
    properties = schema["properties"]
    properties.pop("status", None)
    properties["apiVersion"] = {"const": f"{crd['spec']['group']}/{version['name']}"}
    properties["kind"] = {"const": kind}
    properties["metadata"] = _METADATA
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return {"$comment": f"{crd['metadata']['name']} of {source}, reduced by tests/kubernetes/crds/reduce.py", **schema}


def _strict(schema: dict[str, Any], path: str, left_out: tuple[str, ...]) -> dict[str, Any]:
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: value for key, value in schema.items() if key in _KEPT}
    if "pattern" in made:
        made["pattern"] = made["pattern"].replace("^(?i)", "(?i)^")  # where Python wants it
    if "items" in schema:
        made["items"] = _strict(schema["items"], path, left_out)
    if isinstance(values := schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(values, path, left_out)
    if "properties" in schema:
        made["properties"] = {}
        for name, value in schema["properties"].items():
            below = f"{path}.{name}".strip(".")
            if below not in left_out:
                made["properties"][name] = _strict(value, below, left_out)
            elif below.endswith("replicatedJobs.template"):
                made["properties"][name] = _TEMPLATE
        made["additionalProperties"] = False
    return made


if __name__ == "__main__":
    file, origin = sys.argv[1:]
    print(json.dumps(reduced(yaml.safe_load(Path(file).read_text()), origin), indent=1))
