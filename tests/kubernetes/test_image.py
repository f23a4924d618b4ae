"""The Dockerfile: linted, and of one mind with the manifests. There is no engine here that could build it."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.rendering import K8S, of_kind, overlay

DOCKERFILE = K8S.parent / "Dockerfile"


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of this name, lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_would_speak(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace("USER 10001:10001", "USER root"))
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert "DL3002" in done.stdout


def test_it_is_the_image_of_the_manifests() -> None:
    pod = of_kind(overlay("single-node"), "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = pod["securityContext"]
    assert instructions("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    (entry,) = instructions("ENTRYPOINT")
    assert container["command"] == [*json.loads(entry), "worker"]


def test_all_that_is_copied_is_sent_to_the_engine() -> None:
    """.dockerignore keeps out everything that it does not name."""
    ignored = (K8S.parent / ".dockerignore").read_text().splitlines()
    sources = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    assert sources
    assert all(f"!{source}" in ignored and (K8S.parent / source).exists() for source in sources)


def test_toolkit_and_constraints_are_those_of_the_build() -> None:
    """torch's wheels of this version are built with the CUDA of the toolkit's major version."""
    assert "/src/constraints.txt" in instructions("ENV")[0]
    assert re.search(r"^FROM nvidia/cuda:13\.", DOCKERFILE.read_text(), re.MULTILINE)
