"""Labels: the files that give them to the images of a source, and the map of --labels."""

import csv
import io
import json
import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from distgan.data.packing.items import Item, LeftOut, Source
from distgan.errors import InputError

LABEL_FILES = ("labels.csv", "labels.json", "dataset.json")
_MAX_CLASSES = 2**20  # of --labels; more is a mistake, and classes.json has a line for each
_LABEL_LIMIT = 2**31  # of the index
_NAME_COLUMNS = ("name", "file", "filename", "file_name", "path", "image", "id")

RawLabel = int | str


def parse_label_file(name: str, content: bytes) -> tuple[dict[str, int], list[str] | None]:
    """A label file -> label by name, and the classes' names by label (None: labels are numbers in the file).

    No labels at all is StyleGAN's {"labels": null}: the images have none.

    Raises:
        InputError: it is not what its name says, gives an image two labels, or mixes numbers and words.
    """
    try:
        pairs = _csv_pairs(content) if name.endswith(".csv") else _json_pairs(content)
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{name} of SRC cannot be read ({error}); give it names and labels, as the help of pack shows.") from None
    labels: dict[str, RawLabel] = {}
    for image, label in pairs:
        path = posixpath.normpath(image)
        if labels.setdefault(path, label) != label:
            raise InputError(f"{name} of SRC gives {image!r} two labels, {labels[path]!r} and {label!r}; take one of them out.")
    return _numbered(name, labels)


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Names in order, by number if all of them are numbers: '10' comes after '9'."""
    names = list(names)
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(names)


def read_label_map(path: Path) -> dict[str, int]:
    """--labels FILE.json -> new label by class name or old label.

    Raises:
        InputError: it is not a JSON object of whole numbers.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"--labels is {str(path)!r}, which cannot be read ({error.strerror}); give a JSON file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'--labels is {str(path)!r}, which is not JSON ({error}); write {{"cat": 0, "dog": 1}}.') from None
    if not isinstance(content, dict) or not content or not all(_is_label(label) and label < _MAX_CLASSES for label in content.values()):
        raise InputError(
            f"--labels is {str(path)!r}, which is no JSON object of whole numbers from 0 to {_MAX_CLASSES - 1}; "
            'write {"cat": 0, "dog": 1}.'
        )
    return content


def map_labels(source: Source, new_labels: dict[str, int]) -> Source:
    """`source` with the labels of the map; images of classes that it does not name are left out, with a line for each class.

    Raises:
        InputError: the map names a class that is not there, or the images have no labels.
    """
    old_labels = {item.label for items in source.parts.values() for item in items if item.label is not None}
    if not old_labels:
        raise InputError("--labels is given, but the images of SRC have no labels; leave it out.")
    name_of = dict(enumerate(source.class_names)) if source.class_names else {label: str(label) for label in sorted(old_labels)}
    known = {name: label for label, name in name_of.items()}
    unknown = [name for name in new_labels if name not in known]
    if unknown:
        shown = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else "")
        raise InputError(f"--labels names {unknown[0]!r}, which is no class of SRC ({shown}); correct the name or take it out.")
    by_old = {known[name]: label for name, label in new_labels.items()}
    counts: dict[int | None, int] = {}
    parts: dict[str, list[Item]] = {}
    for part, items in source.parts.items():
        parts[part] = [replace(item, label=by_old[item.label]) for item in items if item.label in by_old]
        for item in items:
            if item.label not in by_old:
                counts[item.label] = counts.get(item.label, 0) + 1
    left_out = [
        LeftOut("images without a label" if label is None else f"class {name_of[label]}", f"is not in --labels ({count} images)")
        for label, count in sorted(counts.items(), key=lambda item: -1 if item[0] is None else item[0])
    ]
    return replace(source, parts=parts, class_names=_mapped_names(new_labels), left_out=source.left_out + left_out)


def _mapped_names(new_labels: dict[str, int]) -> list[str]:
    """Names by new label; classes that became one are joined, a label that nothing has is its number."""
    joined: dict[int, list[str]] = {}
    for name, label in new_labels.items():
        joined.setdefault(label, []).append(name)
    return ["+".join(joined.get(label, [str(label)])) for label in range(max(joined) + 1)]


def _csv_pairs(content: bytes) -> list[tuple[str, RawLabel]]:
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True) if row]
    if not rows:
        raise ValueError("it is empty")
    header = [cell.strip().lower() for cell in rows[0]]
    name_column, label_column, num_columns = 0, 1, 2
    if "label" in header:
        label_column, num_columns = header.index("label"), len(header)
        name_column = next((header.index(name) for name in _NAME_COLUMNS if name in header), int(label_column == 0))
        rows = rows[1:]
    odd = next((row for row in rows if len(row) != num_columns), None)
    if odd is not None or num_columns < 2:
        raise ValueError(f"{','.join(odd or header)[:80]!r} has not the {max(num_columns, 2)} columns that the first line promises")
    return [(row[name_column].strip(), row[label_column].strip()) for row in rows]


def _json_pairs(content: bytes) -> list[tuple[str, RawLabel]]:
    data = json.loads(content)
    if isinstance(data, dict) and isinstance(data.get("labels", 0), list | None):
        data = data["labels"]  # StyleGAN's dataset.json
        if data is None:
            return []
    pairs = list(data.items()) if isinstance(data, dict) else data
    if not isinstance(pairs, list) or not pairs:
        raise ValueError("it is neither an object nor a list with anything in it")
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"{json.dumps(pair)[:80]} is no pair of a name and a label")
        if not _is_label(pair[1]) and not isinstance(pair[1], str):
            raise ValueError(f"{json.dumps(pair[1])[:80]} is neither a whole number from 0 nor the name of a class")
    return [(name, label) for name, label in pairs]


def _numbered(name: str, labels: dict[str, RawLabel]) -> tuple[dict[str, int], list[str] | None]:
    """Words that are all whole numbers are these; other words are numbered in their order."""
    words = {image: label for image, label in labels.items() if isinstance(label, str)}
    numbers = {image: label for image, label in labels.items() if isinstance(label, int)}
    if words and numbers:
        raise InputError(f"{name} of SRC has numbers and words for labels ({next(iter(words.values()))!r}); use one of the two.")
    if "" in words.values():
        image = next(image for image, label in words.items() if label == "")
        raise InputError(f"{name} of SRC has an empty label for {image!r}; give it one or take the line out.")
    if not words:
        return numbers, None
    if all(word.isascii() and word.isdigit() and len(word) <= 20 and _is_label(int(word)) for word in words.values()):
        return {image: int(word) for image, word in words.items()}, None
    names = sorted_classes(set(words.values()))
    number_of = {class_name: number for number, class_name in enumerate(names)}
    return {image: number_of[word] for image, word in words.items()}, names


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LABEL_LIMIT
