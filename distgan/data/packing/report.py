"""What was packed, for people and for programs: pack.json, classes.json, and the sentences at the end."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgan.data.packing.items import Found, LeftOut, Source
from distgan.data.packing.journal import ShardLine
from distgan.data.packing.options import PackOptions
from distgan.data.shards.class_names import NAMES
from distgan.files import write_atomically

REPORT = "pack.json"
VERSION = 1  # of what is written for a command
_SHOWN = 5  # of what was left out


def build_report(
    command: str, found: Found, source: Source, options: PackOptions, lines: Sequence[ShardLine], left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    """The content of pack.json: a function of the command and the source alone."""
    everything = [*left_out, *source.left_out, *(entry for line in lines for entry in line.left_out)]
    labels_file = None if options.labels is None else str(options.labels)
    return {
        "version": VERSION,
        "command": command,
        "source": {"path": found.path, "kind": source.kind},
        "options": options.deciding() | {"labels": labels_file},
        "parts": {name: _part([line for line in lines if line.part == name]) for name in dict.fromkeys(line.part for line in lines)},
        "classes": source.class_names,
        "left_out": [{"name": entry.name, "reason": entry.reason} for entry in everything],
        "num_links_passed_over": source.num_links,
        "num_other_files": source.num_other_files,
    }


def write_report(report: dict[str, Any], directory: Path) -> None:
    """pack.json, and classes.json if the classes have names."""
    if report["classes"] is not None:
        write_atomically(directory / NAMES, _encoded(report["classes"]))
    write_atomically(directory / REPORT, _encoded(report))


def read_report(directory: Path) -> dict[str, Any] | None:
    """The report of a directory if it has one."""
    try:
        report = json.loads((directory / REPORT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None


def is_whole(report: dict[str, Any], directory: Path) -> bool:
    """Whether all shards of a report are there, by their sizes."""
    paths = {directory / name / shard: num_bytes for name, part in report["parts"].items() for shard, num_bytes in part["shards"].items()}
    return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in paths.items())


def summary(report: dict[str, Any], destination: Path) -> str:
    """What people are told at the end."""
    sentences = [_part_sentence(name, part, destination) for name, part in report["parts"].items()]
    left_out = report["left_out"]
    if left_out:
        shown = "".join(f"\n  {entry['name']!r}: {entry['reason']}" for entry in left_out[:_SHOWN])
        more = f"\n  and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        sentences.append(f"Left out, and listed in {destination / REPORT}: {len(left_out)}{shown}{more}")
    if report["num_links_passed_over"]:
        sentences.append(f"Links and devices in the archive that were passed over: {report['num_links_passed_over']}")
    return "\n".join([*sentences, "Train on it:", f"  {_train_command(report, destination)}"])


def _part(lines: Sequence[ShardLine]) -> dict[str, Any]:
    labels: Counter[int | None] = Counter()
    for line in lines:
        labels.update(dict(line.labels))
    known = sorted(label for label in labels if label is not None)
    return {
        "num_samples": sum(line.num_samples for line in lines),
        "num_unlabelled": labels[None],
        "num_samples_by_label": {str(label): labels[label] for label in known},
        "shards": {line.name: line.bytes for line in lines},
        "min_side": min(line.min_side for line in lines),
        "max_side": max(line.max_side for line in lines),
        "num_not_square": sum(line.num_not_square for line in lines),
        "channels": max(line.channels for line in lines),
    }


def _part_sentence(name: str, part: dict[str, Any], destination: Path) -> str:
    num_bytes, num_shards, num_classes = sum(part["shards"].values()), len(part["shards"]), len(part["num_samples_by_label"])
    classes = f" of {num_classes} {_plural('class', num_classes)}" if num_classes else " without labels"
    unlabelled = f" ({part['num_unlabelled']} of them without a label)" if num_classes and part["num_unlabelled"] else ""
    return (
        f"{destination / name}: {part['num_samples']:,} {_plural('sample', part['num_samples'])}{classes}{unlabelled}, "
        f"{num_shards:,} {_plural('shard', num_shards)}, {num_bytes / 1e6:,.1f} MB"
    )


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}es" if word.endswith("s") else f"{word}s"


def _train_command(report: dict[str, Any], destination: Path) -> str:
    name = "train" if "train" in report["parts"] else next(iter(report["parts"]))
    part = report["parts"][name]
    command = f"python -m distgan.train --data.url {shlex.quote(str(destination / name))}"
    if part["min_side"] == part["max_side"]:
        return command
    resolution = 2 ** max(3, min(part["min_side"], 256).bit_length() - 1)  # images of several sizes are scaled and cropped to one
    return f"{command} --data.resolution {resolution}"


def _encoded(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
