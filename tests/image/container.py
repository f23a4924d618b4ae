"""A container of an image, as hardened as the pods of k8s/. Needs root and runc."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.image.builder import Image

GUARD_SECONDS = 300
_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=256m"]},  # noqa: S108
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=1g"]},  # noqa: S108
]


class Container:
    """One that runs. Its network is of its own, without a way out."""

    def __init__(self, identifier: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._identifier, self._log, self._process = identifier, log, process

    def execute(self, command: Sequence[str]) -> int:
        """Run something in it, as a health check does; returns its exit code."""
        return subprocess.run(["runc", "exec", self._identifier, *command], capture_output=True, timeout=GUARD_SECONDS).returncode

    def kill(self, name: str) -> None:
        """Send a signal to process 1."""
        subprocess.run(["runc", "kill", self._identifier, name], check=True, timeout=GUARD_SECONDS)

    def wait(self) -> int:
        """The exit code of process 1."""
        return self._process.wait(GUARD_SECONDS)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text()


@contextmanager
def started(
    image: Image,
    place: Path,
    arguments: Sequence[str] | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    volumes: Mapping[str, Path] | None = None,
) -> Iterator[Container]:
    """Start one, and leave nothing of it.

    Args:
        place: an empty folder for what belongs to it.
        arguments: None: the image's CMD.
        entrypoint: None: the image's.
        environment: added to the image's.
        volumes: what it may write besides /tmp: {where in the container: folder}.
    """
    config = image.config
    user, _, group = config["User"].partition(":")
    process = {
        "user": {"uid": int(user), "gid": int(group)},
        "args": [*(config["Entrypoint"] if entrypoint is None else entrypoint), *(config["Cmd"] if arguments is None else arguments)],
        "env": [*config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())],
        "cwd": config["WorkingDir"],
        "noNewPrivileges": True,
        "capabilities": {},
    }
    (place / "hosts").write_text("127.0.0.1 localhost distgan\n")
    binds = {"/etc/hosts": (place / "hosts", "ro"), **{inside: (path, "rw") for inside, path in (volumes or {}).items()}}
    mounts = [
        {"destination": inside, "type": "bind", "source": str(path), "options": ["bind", mode]} for inside, (path, mode) in binds.items()
    ]
    specification = {
        "ociVersion": "1.0.2",
        "hostname": "distgan",
        "root": {"path": str(image.root), "readonly": True},
        "process": process,
        "mounts": [*_MOUNTS, *mounts],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"],
        },
    }
    (place / "config.json").write_text(json.dumps(specification))
    identifier = f"distgan-image-{place.name}"
    with open(place / "log", "wb") as log:
        command = ["runc", "run", "--bundle", str(place), identifier]
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Container(identifier, place / "log", running)
    finally:
        subprocess.run(["runc", "delete", "--force", identifier], capture_output=True)
        running.wait(GUARD_SECONDS)
