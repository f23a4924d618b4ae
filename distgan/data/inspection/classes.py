"""How many samples each class has, and what it is called."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.data.shards.class_names import names_file
from distgan.data.shards.grouping import NO_LABEL
from distgan.errors import InputError


@dataclass(frozen=True)
class Class:
    """A label, its name if it has one, and how many samples have it."""

    label: int
    name: str | None
    num_samples: int


def read_names(directories: Iterable[Path]) -> list[str]:
    """The names of the labels from 0 on, from the classes.json of these directories of shards; none where there is none.

    Raises:
        InputError: it is not a list of names, or two of them differ.
    """
    found: dict[Path, list[str]] = {}
    for path in filter(None, map(names_file, directories)):
        try:
            names = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON ({error}); mend it or take it away.") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); make it readable or take it away.") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path} is not a list of names, one for each label from 0 on; mend it or take it away.")
        found[path] = names
    paths, lists = list(found), list(found.values())
    for path, names in found.items():
        if names != lists[0]:
            raise InputError(f"{paths[0]} and {path} name the classes differently; make them the same, or look at one directory at a time.")
    return lists[0] if lists else []


def count(labels: np.ndarray, names: list[str]) -> list[Class]:
    """Every class that has a sample or a name, by label. Samples without a label are in none."""
    present, counts = np.unique(labels[labels != NO_LABEL], return_counts=True)  # not bincount: a label may be as high as 2^31
    num_samples = dict.fromkeys(range(len(names)), 0) | dict(zip(present.tolist(), counts.tolist(), strict=True))
    return [Class(label, names[label] if label < len(names) else None, num_samples[label]) for label in sorted(num_samples)]
