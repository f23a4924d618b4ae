"""Options of the command -> the fields of the kustomization that lies around an overlay."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from distgan import __version__
from distgan.errors import InputError
from distgan.launch.job import RANKS_WITHOUT_GPUS, NodeCount
from distgan.launch.kubernetes import quantity, run_name
from distgan.launch.kubernetes.pod_settings import PLACES
from distgan.launch.kubernetes.rendering import CONTAINER, GPU, Rendering
from distgan.launch.shipped import shipped

NAME_LABEL, INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"
OWN_IMAGE = "distgan"  # the base's
RECIPES = "distgan-recipe"  # the base's configMapGenerator
_IMAGE = re.compile(
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]*)?(@sha256:[0-9a-f]{64})?"
)  # distribution's reference format
MAX_RANKS = 16  # on a node: the ports that the NetworkPolicy of the base lets in


def add_options(parser: argparse.ArgumentParser) -> None:
    """What says how a run is rendered."""
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="of the run and of its volume, which holds it in runs/run (default: the last part of run.dir, which is the last --config's)",
    )
    parser.add_argument("--nodes", metavar="N", help="pods (default: 1, or the --overlay's); MIN:MAX goes on with those that are left")
    parser.add_argument(
        "--gpus-per-node",
        type=int,
        metavar="G",
        help="one rank for each (default: the overlay's, which is 8); 0: none, by the overlay cpu-smoke",
    )
    parser.add_argument(
        "--ranks-per-node", type=int, metavar="R", help="without GPUs: processes in each pod (default: the overlay's, which is 2)"
    )
    parser.add_argument("--cpus", metavar="AMOUNT", help="that each pod asks for, such as 16 (default: the overlay's)")
    parser.add_argument("--memory", metavar="AMOUNT", help="that each pod asks for and may have, such as 128Gi (default: the overlay's)")
    parser.add_argument(
        "--image", metavar="IMAGE", help="that the nodes pull, such as registry/distgan:1 (default: the overlay's, 'distgan')"
    )
    parser.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="NAME",
        help=f"added to it: {', '.join(names_in('components'))}; may be repeated",
    )
    parser.add_argument("--queue", metavar="NAME", help="LocalQueue of Kueue in which the run waits for room; adds the component kueue")
    parser.add_argument(
        "--overlay",
        metavar="NAME|DIRECTORY",
        help=f"what is changed: {', '.join(names_in('overlays'))}, or a kustomization of your own that has one of them as a resource "
        "(default: by --nodes and --gpus-per-node)",
    )


def names_in(folder: str) -> list[str]:
    """What there is in a folder of k8s/."""
    return sorted(path.parent.name for path in shipped("k8s").glob(f"{folder}/*/kustomization.yaml"))


def problems(options: argparse.Namespace) -> list[str]:
    """A sentence for each option that can be seen to be wrong by itself."""
    found = []
    try:
        NodeCount.parse(options.nodes or "1")
    except InputError as error:
        found += error.problems
    if options.name is not None:
        found += run_name.problems(options.name, "--name")
    if options.namespace is not None:
        found += run_name.problems(options.namespace, "--namespace")
    if options.queue is not None:
        found += run_name.problems(options.queue, "--queue")
    if options.gpus_per_node is not None and not 0 <= options.gpus_per_node <= MAX_RANKS:
        found.append(f"--gpus-per-node is {options.gpus_per_node}; give a number from 0 to {MAX_RANKS}.")
    if options.ranks_per_node is not None and not 1 <= options.ranks_per_node <= MAX_RANKS:
        found.append(f"--ranks-per-node is {options.ranks_per_node}; give a number from 1 to {MAX_RANKS}.")
    for name in ("cpus", "memory"):
        if (text := getattr(options, name)) is not None and quantity.parse(text) is None:
            found.append(
                f"--{name} is {text!r}; give an amount as Kubernetes writes it, such as {'16 or 500m' if name == 'cpus' else '128Gi'}."
            )
    if options.image is not None and not _IMAGE.fullmatch(options.image):
        found.append(f"--image is {options.image!r}; give a registry, a name in small letters and a tag, such as registry/distgan:1.")
    shipped_components = names_in("components")
    found += [
        f"--component is {name!r}; give one of {', '.join(shipped_components)}."
        for name in options.component
        if name not in shipped_components
    ]
    if options.overlay is not None and not _is_kustomization(overlay(options)):
        found.append(
            f"--overlay is {options.overlay!r}; give one of {', '.join(names_in('overlays'))}, or a directory with a kustomization.yaml."
        )
    return found


def overlay(options: argparse.Namespace) -> Path:
    """The directory of the overlay that the options ask for."""
    overlays = shipped("k8s") / "overlays"
    if options.overlay is not None:
        return overlays / options.overlay if options.overlay in names_in("overlays") else Path(options.overlay)
    nodes = NodeCount.parse(options.nodes or "1")
    if nodes.is_elastic:
        return overlays / "elastic"
    if options.gpus_per_node == 0:
        return overlays / "cpu-smoke"
    return overlays / ("single-node" if nodes.most == 1 else "multi-node")


def components(options: argparse.Namespace) -> list[Path]:
    """The directories of the components that the options ask for."""
    names = [*options.component, *(["kueue"] if options.queue else [])]
    return [shipped("k8s") / "components" / name for name in dict.fromkeys(names)]


def _is_kustomization(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("kustomization.yaml", "kustomization.yml", "Kustomization"))


def nodes(options: argparse.Namespace, bare: Rendering) -> NodeCount:
    """Those that are asked for; bare: the overlay as it is."""
    if options.nodes is None and options.overlay is not None:
        return bare.nodes
    return NodeCount.parse(options.nodes or "1")


def num_gpus(options: argparse.Namespace, bare: Rendering) -> int:
    """Of a node, as `nodes`."""
    return bare.num_gpus if options.gpus_per_node is None else options.gpus_per_node


def ranks_per_node(options: argparse.Namespace, bare: Rendering) -> int:
    """As `nodes`."""
    if options.gpus_per_node:
        return options.gpus_per_node
    return options.ranks_per_node or bare.ranks_given or num_gpus(options, bare) or RANKS_WITHOUT_GPUS


def problems_with(options: argparse.Namespace, bare: Rendering) -> list[str]:
    """A sentence for each option that does not go with the overlay."""
    found = []
    completions = bare.job["spec"].get("completions", 1)
    if options.nodes is None and completions != bare.nodes.most:
        found.append(
            f"The Job of {bare.source[0].lower()}{bare.source[1:]} has completions {completions}, but NODES in its container is "
            f"{bare.nodes}; give --nodes {completions}, or set both as overlays/multi-node does."
        )
    num = num_gpus(options, bare)
    if num and options.ranks_per_node is not None:
        found.append(
            f"--ranks-per-node is {options.ranks_per_node}, but a node has a rank for each of its {num} GPUs; leave it out, or set "
            "--gpus-per-node to 0."
        )
    if options.memory is not None and bare.shared_memory is not None:
        given, shared = quantity.parse(options.memory), quantity.parse(bare.shared_memory)
        if given and shared and given <= shared:
            found.append(f"--memory is {options.memory}, of which /dev/shm alone may take {bare.shared_memory} in this overlay; give more.")
    return found


def warnings_about(options: argparse.Namespace, bare: Rendering) -> list[str]:
    """A sentence for each option that is probably not all that is meant."""
    found = []
    if (options.image or bare.container["image"]) == OWN_IMAGE:
        found.append(f"image is {OWN_IMAGE!r}, which is in no registry; give --image, unless the nodes hold it.")
    if options.gpus_per_node and not bare.num_gpus:
        found.append(
            f"--gpus-per-node is {options.gpus_per_node}, but CPUs, memory and /dev/shm of {bare.source[0].lower()}{bare.source[1:]} are "
            "those of pods without GPUs; give --overlay single-node or multi-node, or leave it out."
        )
    asked = bare.container.get("resources", {}).get("requests", {})
    left = {f"--{name}": resource for name, resource in (("cpus", "cpu"), ("memory", "memory")) if getattr(options, name) is None}
    if options.gpus_per_node == 0 and bare.num_gpus and left:
        amounts = " and ".join(f"{resource} {asked.get(resource, 'as it gets')}" for resource in left.values())
        found.append(
            f"--gpus-per-node is 0, but each pod still asks for {amounts}, as a node of {bare.num_gpus} GPUs has; give "
            f"{' and '.join(left)}."
        )
    return found


def fields(options: argparse.Namespace, bare: Rendering, name: str, files: list[str]) -> dict[str, Any]:
    """The kustomization's, beside its resources and components.

    Args:
        name: of the run.
        files: beside the kustomization, which the pods find beside their recipe.
    """
    namespace = {"namespace": options.namespace} if options.namespace else {}
    labels = {
        NAME_LABEL: "distgan",
        "app.kubernetes.io/component": "training",
        INSTANCE_LABEL: name,
        "app.kubernetes.io/version": __version__.replace("+", "_"),
        "app.kubernetes.io/managed-by": "distgan",
    }
    metadata = {"name": bare.name, "labels": {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}}
    patches = [_patch("Job", {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": _job(options, bare)})]
    if options.nodes is not None and nodes(options, bare).most > 1:
        patches.append(_patch("PersistentVolumeClaim", [{"op": "replace", "path": "/spec/accessModes", "value": ["ReadWriteMany"]}]))
    return {
        **namespace,
        "nameSuffix": f"-{name}",
        "labels": [{"pairs": labels, "includeTemplates": True}],
        "configMapGenerator": [{"name": RECIPES, "behavior": "merge", "files": files}],
        "patches": patches,
    }


def _patch(kind: str, content: object) -> dict[str, Any]:
    return {"target": {"kind": kind}, "patch": json.dumps(content)}


def _job(options: argparse.Namespace, bare: Rendering) -> dict[str, Any]:
    """What becomes of the Job's specification."""
    count = nodes(options, bare)
    amounts = {key: value for key, value in (("cpu", options.cpus), ("memory", options.memory)) if value}
    limits: dict[str, Any] = {"memory": options.memory} if options.memory else {}
    if options.gpus_per_node is not None:
        limits[GPU] = options.gpus_per_node or None  # null: not even 0 of a resource that some clusters have not
    container = {
        "name": CONTAINER,
        "args": _arguments(options, bare),
        "env": [{"name": "NODES", "value": str(count)}],
        "ports": _ports(bare, ranks_per_node(options, bare)),
        "resources": {"requests": amounts, "limits": limits},
        **({"image": options.image} if options.image else {}),
    }
    return {
        "completions": count.most,
        "parallelism": count.most,
        "template": {"spec": {"containers": [container]}},
    }


def _arguments(options: argparse.Namespace, bare: Rendering) -> list[str]:
    arguments, ranks = list(bare.arguments), ranks_per_node(options, bare)
    if "--ranks-per-node" in arguments:
        place = arguments.index("--ranks-per-node")
        del arguments[place : place + 2]
    if ranks != num_gpus(options, bare):
        arguments = ["--ranks-per-node", str(ranks), *arguments]
    places = [argument for field in PLACES for argument in bare.flags.get(field, [])]
    return [*arguments, "--", "--config", str(bare.recipe), *places]  # all other settings are in the recipe


def _ports(bare: Rendering, num_ranks: int) -> list[dict[str, Any]]:
    """Those of the overlay, with one for the metrics of each rank of a node."""
    others = [port for port in bare.container.get("ports", []) if not port.get("name", "").startswith("metrics-")]
    more = (
        [{"name": f"metrics-{rank}", "containerPort": bare.metrics_port + rank} for rank in range(1, num_ranks)]
        if bare.metrics_port
        else []
    )
    return [{"$patch": "replace"}, *others, *more]
