"""Settings of a run as its pods get them: their recipe, the files that it names, and what cannot be in a pod."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from distgan.cli import parse_command
from distgan.config import Data, TrainConfig
from distgan.data.remote import storage
from distgan.data.shards import urls
from distgan.errors import InputError
from distgan.launch.job import NodeCount, checked
from distgan.launch.kubernetes import quantity, run_name
from distgan.launch.kubernetes.rendering import Rendering

PLACES = ("run.dir", "metrics.host")  # settings that are the pods' own, whatever they are on this machine
_DEEPSPEED_FILE = "deepspeed.json"  # what the pods call the file of engine.deepspeed_config


@dataclass(frozen=True)
class PodSettings:
    """What the pods get.

    Args:
        suggested_name: of the run, from the directory that its settings give it.
        files: {name: content} of the recipe, and of what it names.
        warnings: sentences about what may be wrong.
    """

    suggested_name: str
    files: dict[str, str]
    warnings: list[str]


def settle(settings: Sequence[str], overlay: Rendering, title: str, nodes: NodeCount, ranks_per_node: int, scratch: Path) -> PodSettings:
    """Settings, over those of the overlay's own, and where they are told to write.

    Args:
        settings: arguments of distgan.train.
        title: what a run without --config is called.
        scratch: an empty directory, for what the check reads.

    Raises:
        InputError: a sentence for everything that is wrong.
    """
    for name, content in overlay.files.items():
        (scratch / name).write_text(content)
    (scratch / "titled").mkdir()
    base = scratch / "titled" / f"{title}.yaml"  # a run is called after its last --config
    base.write_text(yaml.safe_dump(_of_overlay(overlay, scratch)))
    given = ["--config", str(base), *settings]
    asked = parse_command(given).config
    suggested_name = run_name.suggested(asked.run.dir)
    given += [argument for field in PLACES for argument in overlay.flags.get(field, [])]
    config = parse_command(given).config
    problems, warnings = _problems_in_pods(config, overlay)
    if "host" in asked.metrics.model_fields_set and asked.metrics.host != config.metrics.host:
        warnings.append(
            f"metrics.host is {asked.metrics.host!r}, but the pods serve at {config.metrics.host!r}, to be scraped; leave it out."
        )
    of_overlay = _file_of_overlay(config.engine.deepspeed_config, overlay)
    readable = ["--engine.deepspeed_config", str(scratch / of_overlay)] if of_overlay else []
    try:
        checked([*given, *readable], nodes, ranks_per_node)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return PodSettings(suggested_name, _files(config, overlay, is_there=of_overlay is not None), warnings)


def _of_overlay(overlay: Rendering, scratch: Path) -> dict[str, Any]:
    """What the overlay sets, by its recipe and by arguments of its container, which win; without the places."""
    flags = [argument for field, arguments in overlay.flags.items() if field not in PLACES for argument in arguments]
    config = parse_command(["--config", str(scratch / overlay.recipe.name), *flags]).config
    return _without(config.model_dump(exclude_unset=True), PLACES)


def _without(values: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Nested settings but for these ('run.dir')."""
    sections = {section: dict(content) for section, content in values.items()}
    for field in fields:
        section, _, name = field.partition(".")
        sections.get(section, {}).pop(name, None)
    return sections


def _file_of_overlay(path: str | None, overlay: Rendering) -> str | None:
    """The name of the overlay's file that a path of the pods means; None: it is a path of this machine, or none."""
    if path is None or PurePosixPath(path).parent != overlay.recipe.parent or PurePosixPath(path).name not in overlay.files:
        return None
    return PurePosixPath(path).name


def _files(config: TrainConfig, overlay: Rendering, is_there: bool) -> dict[str, str]:
    """The recipe without the places that the container sets, and the file of DeepSpeed's settings unless it is there already."""
    files = {}
    if config.engine.deepspeed_config is not None and not is_there:
        files[_DEEPSPEED_FILE] = Path(config.engine.deepspeed_config).read_text()
        there = str(overlay.recipe.parent / _DEEPSPEED_FILE)
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"deepspeed_config": there})})
    recipe = yaml.safe_dump(_without(config.model_dump(), [field for field in PLACES if field in overlay.flags]), sort_keys=False)
    return files | {overlay.recipe.name: recipe}


def _problems_in_pods(config: TrainConfig, overlay: Rendering) -> tuple[list[str], list[str]]:
    """Sentences about what cannot be in a pod, and about what may not be."""
    problems, warnings = _data_problems(config.data.url, overlay)
    warnings += _cache_warnings(config.data, overlay)
    if config.run.overwrite:
        problems.append(
            "run.overwrite is true, but a pod that is started again would move aside what the run has learnt; give --name another one, or "
            "delete the volume of the old run."
        )
    if overlay.metrics_port is not None and config.metrics.port != overlay.metrics_port:
        problems.append(
            f"metrics.port is {config.metrics.port}, but what the manifests declare, admit and scrape is {overlay.metrics_port}; leave it "
            "out."
        )
    cache = config.data.cache_dir
    if cache is not None and (not cache.startswith("/") or overlay.volume_at(cache, to_write=True) is None):
        problems.append(
            f"data.cache_dir is {cache!r}, where a pod has no volume to write to; leave it out: the pods have one of their own."
        )
    return problems, warnings


def _cache_warnings(data: Data, overlay: Rendering) -> list[str]:
    """A sentence if what is fetched may fill the volume that it is kept in."""
    directory = data.cache_dir or overlay.cache
    volume = overlay.volume_at(directory) if directory else None
    limit = quantity.parse((volume or {}).get("emptyDir", {}).get("sizeLimit", ""))
    if "://" not in data.url or limit is None or data.cache_gigabytes * 1e9 < limit:
        return []
    room = f"{float(limit) / 1e9:.3g}"
    return [
        f"data.cache_gigabytes is {data.cache_gigabytes:g}, but {directory} has room for {room}, and a pod that fills it is evicted; set "
        "it lower, unless all of the data is smaller."
    ]


def _data_problems(url: str, overlay: Rendering) -> tuple[list[str], list[str]]:
    """As `_problems_in_pods`, of data.url."""
    if url == "digits" or url.startswith("pipe:"):
        return [], []
    try:
        paths = [pattern for pattern in urls.expanded(url) if not storage.is_remote(pattern)]
    except InputError as error:
        return error.problems, []
    mend = "set it to a URL (s3://, gs://, https://), to a path in a volume that the pods keep, or to digits"
    for path in paths:
        volume = overlay.volume_at(path) if path.startswith("/") else None
        if not path.startswith("/"):
            return [f"data.url is {url!r}, a path of this machine, which the pods do not have; {mend}."], []
        if volume is not None and "emptyDir" in volume:
            return [f"data.url is {url!r}, in a volume of the pods that is empty when they start; {mend}."], []
        if volume is None:
            return [], [f"data.url is {url!r}, which is in no volume of the pods; unless the image holds it, {mend}."]
    return [], []
