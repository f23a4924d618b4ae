"""Manifests as kubectl renders them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def missing(*tools: str) -> str:
    """Those that this machine lacks; empty: none. In CI nothing may be missing, and what is fails by itself."""
    if "DISTGAN_REQUIRE_TOOLS" in os.environ:
        return ""
    return ", ".join(tool for tool in tools if shutil.which(tool) is None)


def num_bytes(size: str) -> int:
    """'8Gi' -> 8589934592."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti)", size)
    assert match, size
    return int(match[1]) * _UNITS[match[2]]


def rendered(directory: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a directory."""
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> list[dict[str, Any]]:
    """One of k8s/overlays."""
    return rendered(K8S / "overlays" / name)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only manifest of its kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found
