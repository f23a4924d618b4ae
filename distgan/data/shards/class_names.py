"""Where the names of classes stand: a JSON list of names, the first one that of label 0."""

from pathlib import Path

NAMES = "classes.json"  # beside the shards, or above the parts of a set
PARTS = ("train", "test")


def names_file(directory: Path) -> Path | None:
    """The file of a directory of shards; None: it has none."""
    above = [directory.parent] if directory.name in PARTS else []
    return next((folder / NAMES for folder in (directory, *above) if (folder / NAMES).is_file()), None)
