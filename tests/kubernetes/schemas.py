"""What API servers take: the schemas of Kubernetes, by release, and those of what operators add, each without a field that is not known."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.kubernetes.controllers import job_of
from tests.kubernetes.rendering import Manifests

OLDEST = (1, 29)
_SINCE = {"successPolicy": (1, 31)}  # of a Job: the release from which on it has an effect without an administrator's help
_CRDS = Path(__file__).with_name("crds")
KINDS = sorted(path.stem for path in _CRDS.glob("*.json"))


def releases(manifests: Manifests | None = None) -> list[str]:
    """1.29 and every later one whose schemas are installed; of them, those that have all that the manifests need."""
    fields = job_of(manifests)["spec"].keys() if manifests else ()
    oldest = max([OLDEST, *(_SINCE[field] for field in fields if field in _SINCE)])
    names = os.listdir(Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema")
    found = {tuple(map(int, match.groups())) for name in names if (match := re.match(r"v?(\d+)\.(\d+)", name))}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= oldest]


@contextmanager
def read_once() -> Iterator[None]:
    """kubernetes_validate reads megabytes for every object; within this, once for each release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", lru_cache(maxsize=16)(kubernetes_validate.utils.schema_contents))
        yield


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((_CRDS / f"{kind}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validate(manifest: dict[str, Any], release: str) -> None:
    """Hold an object against its schema.

    Raises:
        jsonschema.ValidationError: it is refused, for instance for a field that is not known.
        kubernetes_validate.SchemaNotFoundError: nothing is known of its kind.
    """
    if manifest["kind"] in KINDS:
        _validator(manifest["kind"]).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, release, strict=True)
