"""Manifests as kubectl renders them."""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Manifests = list[dict[str, Any]]

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS, COMPONENTS, OPERATORS = (
    sorted(path.name for path in (K8S / folder).iterdir()) for folder in ("overlays", "components", "operators")
)

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _variants() -> dict[str, tuple[str, ...]]:
    """{name: (overlay, components...)}: every overlay as it is, with each component, with all, and as each operator has it."""
    found, everything = {}, [f"components/{component}" for component in COMPONENTS]
    for overlay in OVERLAYS:
        found[overlay] = (overlay,)
        found |= {f"{overlay}+{component}": (overlay, f"components/{component}") for component in COMPONENTS}
        found[f"{overlay}+all"] = (overlay, *everything)
        found |= {f"{operator}:{overlay}": (overlay, f"operators/{operator}/component") for operator in OPERATORS}
    found |= {f"{operator}:elastic+all": ("elastic", *everything, f"operators/{operator}/component") for operator in OPERATORS}
    return found


VARIANTS = _variants()


def num_bytes(size: str) -> int:
    """'8Gi' -> 8589934592."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti)", size)
    assert match, size
    return int(match[1]) * _UNITS[match[2]]


def rendered_text(directory: Path) -> str:
    """What `kubectl kustomize` makes of a directory."""
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rendered(directory: Path) -> Manifests:
    """As `rendered_text`."""
    return list(yaml.load_all(rendered_text(directory), Loader=_Loader))


def write_kustomization(directory: Path, overlay: str, components: Sequence[str] = (), **fields: Any) -> None:
    """One around an overlay, as a user has it; fields: more of it.

    Args:
        overlay: of k8s/overlays, or the path of another directory.
        components: 'components/spot'
    """
    here = directory.resolve()
    resource = K8S / "overlays" / overlay if overlay in OVERLAYS else Path(overlay).resolve()
    paths = {"resources": [resource], "components": [K8S / component for component in components]}
    relative = {field: [os.path.relpath(path, here) for path in found] for field, found in paths.items()}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(relative | fields))


@cache
def variant(name: str) -> Manifests:
    """One of `VARIANTS`, rendered once in a session: not to be changed."""
    overlay, *components = VARIANTS[name]
    with tempfile.TemporaryDirectory() as directory:
        write_kustomization(Path(directory), overlay, components)
        return rendered(Path(directory))


def overlay(name: str) -> Manifests:
    """One of k8s/overlays."""
    return variant(name)


def of_kind(manifests: Manifests, kind: str) -> dict[str, Any]:
    """The only manifest of its kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found
