"""Send a run to the cluster: looked at by the server first, so that what it refuses leaves nothing behind."""

import json
from collections.abc import Sequence

from distgan.errors import InputError
from distgan.launch.kubernetes import runs
from distgan.launch.kubernetes.kubectl import Kubectl, Manifest
from distgan.launch.kubernetes.preparation import Prepared
from distgan.launch.say import say

_APPLY = ("apply", "--server-side", "--field-manager", "distgan", "--validate=strict", "--filename", "-")
_LOOK = (*_APPLY, "--dry-run=server")


def submit(prepared: Prepared, kubectl: Kubectl) -> str:
    """Start the run, or go on with it; returns what kubectl says of it.

    Raises:
        InputError: a Job of this name runs; or as `Kubectl.run`.
        RunError: as `Kubectl.run`.
    """
    rendering = prepared.rendering
    there = {(found["kind"], found["metadata"]["name"]): found for found in kubectl.get(*_names(prepared))}
    job = there.pop(("Job", rendering.name), None)
    if job is not None:
        _refuse_running(job, prepared, kubectl)
    for _, volume in sorted(there):
        say(f"The volume {volume} is there: the run goes on from what is in it.")
        _warn_of_single(there["PersistentVolumeClaim", volume], prepared)
    # A volume is used as it is: of one that is there nothing but its size may change.
    sent = [manifest for manifest in rendering.manifests if (manifest["kind"], manifest["metadata"]["name"]) not in there]
    # The template of a Job that is there cannot change either, so that it cannot be looked at before the old one is gone.
    kubectl.run(*_LOOK, send=_stream([manifest for manifest in sent if job is None or manifest["kind"] != "Job"]))
    if job is not None:
        say(f"The Job {rendering.name} has ended, and is replaced.")
        kubectl.run(*_delete(rendering.name))
    return kubectl.run(*_APPLY, send=_stream(sent))


def commands(prepared: Prepared, kubectl: Kubectl) -> list[str]:
    """What `submit` runs, to be shown."""
    return [
        kubectl.shown("get", *_names(prepared)),
        kubectl.shown(*_LOOK),
        f"{kubectl.shown(*_delete(prepared.rendering.name))}  # if it is there and has ended",
        kubectl.shown(*_APPLY),
    ]


def _names(prepared: Prepared) -> list[str]:
    """Of what may be there from an earlier sitting."""
    kept = prepared.rendering.of_kind("PersistentVolumeClaim")
    return [f"job/{prepared.rendering.name}", *(f"persistentvolumeclaim/{volume['metadata']['name']}" for volume in kept)]


def _delete(job: str) -> tuple[str, ...]:
    return "delete", f"job/{job}", "--cascade=foreground"


def _refuse_running(job: Manifest, prepared: Prepared, kubectl: Kubectl) -> None:
    if "deletionTimestamp" in job["metadata"]:
        raise InputError(f"--name is {prepared.name!r}, a run that is being stopped; wait until `k8s status` no longer has its Job.")
    if runs.ended(job) is None:
        raise InputError(
            f"--name is {prepared.name!r}, a run that is there and has not ended; stop it first (`k8s stop {prepared.name}`), or "
            "give another --name."
        )


def _warn_of_single(volume: Manifest, prepared: Prepared) -> None:
    """Pods on several machines need a volume that several machines may write to."""
    modes = volume["spec"]["accessModes"]
    if prepared.rendering.nodes.most > 1 and "ReadWriteMany" not in modes:
        name = volume["metadata"]["name"]
        say(
            f"Warning: the volume {name} is {', '.join(modes)}, so that pods on other machines may wait for ever; give another --name, "
            "which makes a volume of its own."
        )


def _stream(manifests: Sequence[Manifest]) -> str:
    """One after the other: a List of them kubectl would hold against a schema of its own, and not let the server do it."""
    return "\n".join(map(json.dumps, manifests))
