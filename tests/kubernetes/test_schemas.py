"""Every manifest is one that API servers take, of every release and with every operator."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest

from tests.kubernetes.controllers import job_of
from tests.kubernetes.rendering import VARIANTS, variant
from tests.kubernetes.schemas import KINDS, read_once, releases, validate
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")


@pytest.fixture(autouse=True, scope="module")
def _schemas() -> Iterator[None]:
    with read_once():
        yield


@cache
def objects() -> list[tuple[dict[str, Any], list[str]]]:
    """All that is rendered, each object once, and the Jobs that operators make of it; with the releases that it is for."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for manifests in map(variant, VARIANTS):
        of_these = releases(manifests)
        for manifest in (*manifests, job_of(manifests)):
            found.setdefault(json.dumps([manifest, of_these[0]], sort_keys=True), (manifest, of_these))
    return list(found.values())


def of_kind(kind: str) -> dict[str, Any]:
    """One that may be changed."""
    return copy.deepcopy(next(manifest for manifest, _ in objects() if manifest["kind"] == kind))


def test_there_are_schemas_of_many_releases() -> None:
    assert releases()[0] == "1.29"
    assert len(releases()) >= 5
    assert releases(variant("elastic"))[0] == "1.31"


@pytest.mark.parametrize("release", releases())
def test_every_release_takes_them(release: str) -> None:
    found = [manifest for manifest, of_these in objects() if release in of_these]
    for manifest in found:
        validate(manifest, release)
    assert {*KINDS, "Job", "Service", "ConfigMap"} <= {manifest["kind"] for manifest in found}


PLACES = {
    "Job": ("spec", "podFailurePolicy", "rules", 0),
    "Service": ("spec", "ports", 0),
    "NetworkPolicy": ("spec", "ingress", 0),
    "JobSet": ("spec", "replicatedJobs", 0),
    "TrainJob": ("spec", "runtimeRef"),
    "TrainingRuntime": ("spec", "template", "spec", "replicatedJobs", 0),
    "PodMonitor": ("spec", "podMetricsEndpoints", 0),
    "PrometheusRule": ("spec", "groups", 0, "rules", 0),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_misspelt_field_would_be_seen(kind: str) -> None:
    manifest = of_kind(kind)
    validate(manifest, releases()[-1])
    place = manifest
    for key in PLACES[kind]:
        place = place[key]
    place["misspelt"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest, releases()[-1])


def test_a_value_that_does_not_exist_would_be_seen() -> None:
    """Of a field that has only a few."""
    jobset = of_kind("JobSet")
    rule = {"name": "a", "action": "RestartJobSet"}
    jobset["spec"]["failurePolicy"] = {"maxRestarts": 1, "rules": [rule]}
    validate(jobset, releases()[-1])
    rule["action"] = "Restart"
    with pytest.raises(jsonschema.ValidationError):
        validate(jobset, releases()[-1])


def test_all_that_operators_bring_has_a_schema() -> None:
    assert sorted(set(PLACES) - {"Job", "Service", "NetworkPolicy"}) == KINDS
