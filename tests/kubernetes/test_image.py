"""The Dockerfile: linted, and of one mind with the manifests. tests/image builds it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kubernetes.rendering import K8S, of_kind, overlay
from tests.tools import missing

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


@pytest.mark.skipif(bool(missing("kubectl")), reason="rendering needs kubectl")
def test_it_is_the_image_of_the_manifests() -> None:
    pod = of_kind(overlay("single-node"), "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = pod["securityContext"]
    assert instructions("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    (entry,) = instructions("ENTRYPOINT")
    assert container["command"] == [*json.loads(entry), "worker"]


def test_all_that_is_used_is_sent_to_the_engine_and_nothing_else() -> None:
    """.dockerignore keeps out everything that it does not name."""
    ignored = (K8S.parent / ".dockerignore").read_text().splitlines()
    sources = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    for options in (re.findall(r"--mount=(type=bind,\S+)", line) for line in instructions("RUN")):
        sources += [re.findall(r"source=([^,]+)", option)[0] for option in options if "from=" not in option]
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert sent <= set(sources)
    assert all((K8S.parent / source).exists() and not sent.isdisjoint(map(str, (source, *Path(source).parents))) for source in sources)


def test_what_is_installed_is_of_the_constraints() -> None:
    variables = " ".join(instructions("ENV"))
    (copied,) = [line for line in instructions("COPY") if "constraints.txt" in line]
    assert f"PIP_CONSTRAINT={copied.split()[-1]}constraints.txt" in variables
    assert not any("PIP_CONSTRAINT" in line for line in instructions("RUN"))
