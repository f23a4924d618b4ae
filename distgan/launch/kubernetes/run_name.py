"""What a run is called: its objects are named after it, and its pods' names have to fit into DNS."""

import re

_LONGEST_LABEL = 63  # characters of a label of DNS (RFC 1123)


def suggested(run_directory: str) -> str:
    """'runs/My_faces' -> 'my-faces'; may still be no name."""
    return re.sub(r"[^a-z0-9]+", "-", run_directory.rstrip("/").rpartition("/")[2].lower()).strip("-")


def problems(name: str, source: str) -> list[str]:
    """A sentence if `name` is no label of DNS; source: what gives it, such as '--name'."""
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
        return []
    return [f"{source} is {name!r}, but names of Kubernetes are of a-z, 0-9 and '-', which neither begins nor ends them; give another."]


def length_problems(name: str, job: str, num_nodes: int) -> list[str]:
    """A sentence if the host name of the last pod is too long.

    Args:
        job: the Job's name before the run's is added to it.
    """
    longest = _LONGEST_LABEL - len(f"{job}--{num_nodes - 1}")
    if len(name) <= longest:
        return []
    return [
        f"The run is called {name!r}, but a pod's host name, {job}-<name>-<index>, may have {_LONGEST_LABEL} characters; give a --name "
        f"of at most {longest}."
    ]
