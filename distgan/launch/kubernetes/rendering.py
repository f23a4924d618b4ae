"""Manifests as kustomize renders them, and what the launcher has to know of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from distgan.errors import InputError
from distgan.launch.job import RANKS_WITHOUT_GPUS, NodeCount
from distgan.launch.kubernetes.kubectl import Manifest, reason, start

GPU = "nvidia.com/gpu"
CONTAINER = "train"


@dataclass(frozen=True)
class Rendering:
    """What a kustomization makes.

    Args:
        source: what it is called in sentences about it.
    """

    text: str
    source: str

    @cached_property
    def manifests(self) -> list[Manifest]:
        return [manifest for manifest in yaml.safe_load_all(self.text) if manifest]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    @cached_property
    def job(self) -> Manifest:
        """The only one; as all that follows, it raises InputError where the manifests are none of a run."""
        jobs = self.of_kind("Job")
        operators = [manifest["kind"] for manifest in self.manifests if manifest["kind"] in ("JobSet", "TrainJob")]
        if operators and not jobs:
            raise InputError(
                f"{self.source} renders a {operators[0]}, which this command does not know; send it by `kubectl apply -k`, or give "
                "--overlay the one that it is made of."
            )
        if len(jobs) != 1:
            raise self._no_run(f"{len(jobs)} Jobs, but a run is one")
        return jobs[0]

    @property
    def name(self) -> str:
        """The Job's."""
        return self.job["metadata"]["name"]

    @property
    def pod(self) -> dict[str, Any]:
        return self.job["spec"]["template"]["spec"]

    @cached_property
    def container(self) -> dict[str, Any]:
        """The one that trains."""
        for container in self.pod["containers"]:
            if container["name"] == CONTAINER:
                return container
        raise self._no_run(f"a Job without a container {CONTAINER!r}")

    @property
    def arguments(self) -> list[str]:
        """The container's, before the settings."""
        return self._arguments[0]

    @property
    def settings(self) -> list[str]:
        """Arguments of distgan.train that the container gets."""
        return self._arguments[1]

    @property
    def _arguments(self) -> tuple[list[str], list[str]]:
        arguments = self.container.get("args", [])
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        return arguments[:cut], arguments[cut + 1 :]

    @property
    def recipe(self) -> PurePosixPath:
        """Where the pods find their configuration."""
        settings = self.settings
        if "--config" not in settings[:-1]:
            raise self._no_run("a container without --config among its settings")
        return PurePosixPath(settings[settings.index("--config") + 1])

    @property
    def flags(self) -> dict[str, list[str]]:
        """{field: the arguments that set it} of the settings beside the recipe."""
        found: dict[str, list[str]] = {}
        field = ""
        for argument in self.settings:
            if argument.startswith("--"):
                field = argument.removeprefix("--").partition("=")[0]
            found[field] = [*found.get(field, []), argument]
        return {field: arguments for field, arguments in found.items() if field != "config"}

    @cached_property
    def files(self) -> dict[str, str]:
        """{name: content} of what lies beside the recipe in the pods, and of the recipe."""
        for config_map in self.of_kind("ConfigMap"):
            if self.recipe.name in config_map.get("data", {}):
                return config_map["data"]
        raise self._no_run(f"no ConfigMap with {self.recipe.name}")

    @property
    def nodes(self) -> NodeCount:
        """How many pods train together."""
        texts = [entry.get("value", "") for entry in self.container.get("env", []) if entry["name"] == "NODES"]
        return NodeCount.parse(texts[0] if texts else str(self.job["spec"].get("completions", 1)))

    @property
    def num_gpus(self) -> int:
        """Of a pod."""
        return int(self.container.get("resources", {}).get("limits", {}).get(GPU, 0))

    @property
    def ranks_given(self) -> int | None:
        """The ranks of a pod, if its arguments say how many."""
        arguments = self.arguments
        given = arguments[arguments.index("--ranks-per-node") + 1] if "--ranks-per-node" in arguments[:-1] else "auto"
        return int(given) if given.isdecimal() else None

    @property
    def ranks_per_node(self) -> int:
        return self.ranks_given or self.num_gpus or RANKS_WITHOUT_GPUS

    @property
    def metrics_port(self) -> int | None:
        """Of rank 0; None: the container declares none."""
        return next((port["containerPort"] for port in self.container.get("ports", []) if port.get("name") == "metrics"), None)

    @property
    def shared_memory(self) -> str | None:
        """The size that /dev/shm may have."""
        found = self.volume_at("/dev/shm")  # noqa: S108
        return None if found is None else found.get("emptyDir", {}).get("sizeLimit")

    def volume_at(self, path: str, to_write: bool = False) -> dict[str, Any] | None:
        """The volume in which a path of the pods lies; None: in none."""
        mounts = {
            mount["mountPath"]: mount
            for mount in self.container.get("volumeMounts", [])
            if PurePosixPath(path).is_relative_to(mount["mountPath"])
        }
        if not mounts:
            return None
        mount = mounts[max(mounts, key=len)]
        if to_write and mount.get("readOnly"):
            return None
        return next(volume for volume in self.pod["volumes"] if volume["name"] == mount["name"])

    @property
    def cache(self) -> str | None:
        """The directory in which a pod keeps what it has fetched; None: nobody said."""
        return next((entry.get("value") for entry in self.container.get("env", []) if entry["name"] == "XDG_CACHE_HOME"), None)

    def _no_run(self, what: str) -> InputError:
        return InputError(f"{self.source} renders {what}; give --overlay one that has an overlay of the launcher's as a resource.")


def render(directory: Path, source: str, overlay: Path, components: Sequence[Path], changes: dict[str, Any]) -> Rendering:
    """An overlay with components and changes (fields of a kustomization, which is made in `directory`).

    Raises:
        InputError: there is no kubectl, or kustomize refuses it.
    """
    here = directory.resolve()
    outer = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(overlay.resolve(), here)],
        "components": [os.path.relpath(component.resolve(), here) for component in components],
        **changes,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(outer, sort_keys=False))
    done = start(["kubectl", "kustomize", str(here)])
    if done.returncode:
        raise InputError(f"{source} cannot be rendered: {reason(done.stderr)}; mend it.")
    return Rendering(done.stdout, source)
