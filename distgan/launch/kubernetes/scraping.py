"""Where the metrics of a run are, for Prometheus and for a browser."""

from distgan.errors import InputError
from distgan.launch.kubernetes.kubectl import Kubectl
from distgan.launch.kubernetes.rendering import CONTAINER
from distgan.launch.kubernetes.runs import Run


def describe(run: Run, kubectl: Kubectl) -> str:
    """The addresses in the cluster, and how to reach rank 0's from here.

    Raises:
        InputError: the run has no Job.
    """
    if run.job is None:
        raise InputError(f"NAME is {run.name!r}, a run without a Job, and so without metrics; submit it to go on with it.")
    metadata, spec = run.job["metadata"], run.job["spec"]
    pod_spec = spec["template"]["spec"]
    (container,) = [container for container in pod_spec["containers"] if container["name"] == CONTAINER]
    ports = [port["containerPort"] for port in container.get("ports", []) if port.get("name", "").startswith("metrics")]
    if not ports:
        raise InputError(f"NAME is {run.name!r}, whose container declares no port for metrics; give it back the ports of k8s/base.")
    num_nodes = spec.get("completions", 1)
    host = f"{metadata['name']}-{_span(0, num_nodes - 1)}.{pod_spec['subdomain']}.{metadata['namespace']}.svc"
    first = run.pod(0)
    lines = [
        "In the cluster, a host for each node and a port for each of its ranks; the NetworkPolicy says who may come in:",
        f"  http://{host}:{_span(ports[0], ports[-1])}/metrics",
        "From here, rank 0's:",
    ]
    if first is None or first.phase != "Running":
        return "\n".join([*lines, f"  no pod of index 0 runs ({first.phase if first else 'there is none'}); see `status {run.name}`"])
    return "\n".join(
        [
            *lines,
            f"  {kubectl.shown('port-forward', f'pod/{first.name}', str(ports[0]))}",
            f"  http://127.0.0.1:{ports[0]}/metrics",
        ]
    )


def _span(first: int, last: int) -> str:
    """'{0..3}', as braces are expanded; '0' where that is all."""
    return str(first) if first == last else f"{{{first}..{last}}}"
