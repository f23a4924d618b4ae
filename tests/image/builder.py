"""The Dockerfile, built where there is neither an engine nor a registry. Needs root, buildah and mmdebstrap.

buildah carries out every instruction as it stands. Two things stand in for what cannot be fetched:

- for `FROM ubuntu:24.04` a minimal Debian 12: Python 3.11 instead of 3.12, g++ 12 instead of 13. As in official images apt keeps nothing.
- in that base, pip's configuration on this machine, with the folders that it names. Where one of them has torch's CPU build, pip prefers
  that to the CUDA build of the same version. CUDA's libraries are then missing in the image; nvcc is a package like any other and compiles.

RUN has this machine's network. Where something was mounted buildah leaves an empty folder or file in the image; BuildKit does not.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "Dockerfile"
SUITE = "bookworm"
# What it takes at most, in memory: dpkg, for one, waits for the disk after each package.
_STORE_BYTES = 12 * 2**30
_APT_KEEPS_NOTHING = """APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def run(*command: str) -> str:
    """Its standard output."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def base_image() -> str:
    """The only image of the Dockerfile that is none of its own stages."""
    lines = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE.read_text(), re.MULTILINE)
    (found,) = {image for image, _ in lines} - {stage for _, stage in lines}
    return found


def argument(name: str) -> str:
    """The default of a build argument."""
    (found,) = re.findall(rf'^ARG {name}="?([^"\n]*)"?$', DOCKERFILE.read_text(), re.MULTILINE)
    return found


@dataclass(frozen=True)
class Image:
    """What came of a build.

    Attributes:
        config: as Docker's image specification has it: User, Env, Entrypoint, Cmd, WorkingDir, Labels, Healthcheck.
        layers: of each the instruction that made it, and its size in bytes, not compressed.
        root: its file system, mounted. What is written there changes neither the image nor another `Image` of it.
        container: buildah's name of what is mounted.
    """

    config: dict[str, Any]
    layers: list[tuple[str, int]]
    root: Path
    container: str


class Builder:
    """Images and all that belongs to them, in one folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._settings, self._folders = _pip_configuration()
        (directory / "temporary").mkdir()

    def make_base(self) -> None:
        """What the Dockerfile starts from."""
        start = time.monotonic()
        container = self._buildah("from", "scratch")
        root = Path(self._buildah("mount", container))
        run("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory", SUITE, str(root))
        (root / "etc/apt/apt.conf.d/keep-nothing").write_text(_APT_KEEPS_NOTHING)
        settings = dict(self._settings)
        if "cert" in settings:
            shutil.copyfile(settings["cert"], root / "etc/pip.crt")
            settings["cert"] = "/etc/pip.crt"
        (root / "etc/pip.conf").write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""]))
        self._buildah(
            "config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--cmd", "/bin/bash", container
        )
        self._buildah("commit", "--rm", container, base_image())
        print(f"\n{time.monotonic() - start:6.1f} s  Debian {SUITE} for {base_image()}", flush=True)

    def build(self, *options: str) -> str:
        """Carry out the Dockerfile, and print what each instruction took; what was carried out before is not done again.

        Args:
            options: of `buildah build`.
        """
        identifier = self._directory / "identifier"
        command = [
            *self._command("build"),
            "--format",
            "docker",
            "--layers",
            "--pull-never",
            "--network",
            "host",
            "--iidfile",
            str(identifier),
        ]
        for folder in self._folders:
            command += ["--volume", f"{folder}:{folder}:ro"]
        log: list[str] = []
        step, start = "", time.monotonic()
        with subprocess.Popen(
            [*command, *options, str(PROJECT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment()
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.append(line)
                    if " STEP " in line or line.startswith("STEP "):
                        start = _tell(step, start)
                        step = line.partition(": ")[2]
            except BaseException:
                process.terminate()  # which ends what it runs
                raise
        _tell(step, start)
        assert process.returncode == 0, "".join(log[-60:])
        return identifier.read_text()

    def image(self, identifier: str) -> Image:
        """What was built, with a file system of its own."""
        found = json.loads(self._buildah("inspect", "--type", "image", identifier))
        made_by = [entry.get("created_by", "") for entry in found["Docker"]["history"] if not entry.get("empty_layer")]
        sizes = [layer["size"] for layer in json.loads(found["Manifest"])["layers"]]
        container = self._buildah("from", "--pull-never", identifier)
        return Image(found["Docker"]["config"], list(zip(made_by, sizes, strict=True)), Path(self._buildah("mount", container)), container)

    def execute(self, image: Image, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command as RUN would, but without a network; returns its standard output."""
        variables = [option for name, value in (environment or {}).items() for option in ("--env", f"{name}={value}")]
        return self._buildah("run", "--network", "none", *variables, image.container, "--", *command)

    def close(self) -> None:
        """Unmount everything."""
        self._buildah("rm", "--all")

    def _command(self, name: str) -> list[str]:
        return ["buildah", "--root", f"{self._directory}/store", "--runroot", f"{self._directory}/run", "--storage-driver", "overlay", name]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"TMPDIR": f"{self._directory}/temporary", "BUILDAH_ISOLATION": "oci"}

    def _buildah(self, name: str, *arguments: str) -> str:
        done = subprocess.run([*self._command(name), *arguments], capture_output=True, text=True, env=self._environment())
        assert done.returncode == 0, f"buildah {name} {' '.join(arguments)}: {done.stderr[-4000:]}"
        return done.stdout.strip()


@contextmanager
def builder(directory: Path) -> Iterator[Builder]:
    """One whose images lie in memory, mounted at `directory`, and are gone afterwards."""
    run("mount", "-t", "tmpfs", "-o", f"size={_STORE_BYTES},mode=755", "distgan-image", str(directory))
    try:
        found = Builder(directory)
        try:
            yield found
        finally:
            found.close()
    finally:
        run("umount", "--recursive", str(directory))


def _tell(step: str, start: float) -> float:
    now = time.monotonic()
    if now - start > 0.5:
        print(f"{now - start:6.1f} s  {' '.join(step.split())[:120]}", flush=True)
    return now


def _pip_configuration() -> tuple[dict[str, str], list[Path]]:
    """Where pip finds packages on this machine, its environment variables included; and the folders that this names."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # which override files
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("cert", "index-url", "extra-index-url", "find-links", "trusted-host"):
            settings[name] = " ".join(ast.literal_eval(value).split())
    places = " ".join(settings.get(name, "") for name in ("index-url", "extra-index-url", "find-links"))
    paths = [Path(place.removeprefix("file://")) for place in places.split() if place.startswith(("/", "file:///"))]
    # An index's pages lead to files beside it.
    return settings, sorted({Path(*path.parts[:3]) for path in paths})
