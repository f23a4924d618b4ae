"""Options and settings -> checked manifests of a run."""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distgan.config import DEFAULT_RECIPE
from distgan.errors import InputError
from distgan.launch.kubernetes import changes, run_name
from distgan.launch.kubernetes.pod_settings import settle
from distgan.launch.kubernetes.rendering import GPU, Rendering, render


@dataclass(frozen=True)
class Prepared:
    """A run, ready to be sent.

    Args:
        warnings: sentences about what may be wrong.
    """

    name: str
    rendering: Rendering
    warnings: list[str]

    def describe(self) -> str:
        """What it asks the cluster for."""
        job, resources = self.rendering, self.rendering.container.get("resources", {})
        asked = resources.get("requests", {}) | {key: value for key, value in resources.get("limits", {}).items() if key == GPU}
        amounts = ", ".join(f"{key} {value}" for key, value in asked.items()) or "nothing"
        nodes = f"{job.nodes} nodes" if job.nodes.most > 1 else "one node"
        return f"{self.name}: {nodes} of {job.ranks_per_node} ranks, each with {amounts}; image {job.container['image']}."


def prepare(options: argparse.Namespace) -> Prepared:
    """Check everything, and render.

    Raises:
        InputError: a sentence for everything that is wrong.
    """
    if problems := changes.problems(options):
        raise InputError(problems)
    overlay, components = changes.overlay(options), changes.components(options)
    is_own = options.overlay is not None and options.overlay not in changes.names_in("overlays")
    source = f"The overlay {options.overlay or overlay.name!r}"
    with tempfile.TemporaryDirectory(prefix="distgan-k8s-") as scratch:
        place = {name: Path(scratch) / name for name in ("bare", "files", "run")}
        for directory in place.values():
            directory.mkdir()
        bare = render(place["bare"], source, overlay, components, {})
        nodes, ranks_per_node = changes.nodes(options, bare), changes.ranks_per_node(options, bare)
        problems = changes.problems_with(options, bare)
        try:
            title = overlay.resolve().name if is_own else DEFAULT_RECIPE
            settings = settle(options.settings, bare, title, nodes, ranks_per_node, place["files"])
        except InputError as error:
            raise InputError(problems + error.problems) from None
        name = options.name or settings.suggested_name
        problems += run_name.problems(name, "The name that run.dir gives") or run_name.length_problems(name, bare.name, nodes.most)
        if problems:
            raise InputError(problems)
        for file, content in settings.files.items():
            (place["run"] / file).write_text(content)
        return Prepared(
            name,
            render(place["run"], source, overlay, components, changes.fields(options, bare, name, sorted(settings.files))),
            changes.warnings_about(options, bare) + settings.warnings,
        )
