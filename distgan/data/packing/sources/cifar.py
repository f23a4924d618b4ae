"""CIFAR-10 and CIFAR-100 in their binary versions (https://www.cs.toronto.edu/~kriz/cifar.html), in a folder or the original tar.gz.

A record is the label (CIFAR-100: coarse, then fine), then 1024 bytes of red, of green and of blue, in rows of 32.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.data.packing.archives import Contents
from distgan.data.packing.items import FileRange, Found, FoundFile, Item, PixelRange, Source
from distgan.data.packing.places import UnreadableError, read_content
from distgan.errors import InputError

SIDE = 32
_PIXEL_BYTES = 3 * SIDE * SIDE
_NAMES_FILES = ("batches.meta.txt", "fine_label_names.txt", "coarse_label_names.txt")
_CIFAR_10_TRAIN = re.compile(r"data_batch_\d+\.bin")


@dataclass(frozen=True)
class _Version:
    """How many label bytes a record begins with, which of them counts, its classes and where their names are."""

    num_label_bytes: int
    label_byte: int
    num_classes: int
    names_file: str


def is_cifar(names: Iterable[str]) -> bool:
    """Whether file names are those of one of the two sets."""
    names = set(names)
    return any(_CIFAR_10_TRAIN.fullmatch(name) for name in names) or "test_batch.bin" in names or {"train.bin", "test.bin"} <= names


def find(path: Path) -> Found:
    """The binary files and those of the class names in a folder."""
    if not path.is_dir():
        raise InputError(f"SRC is {str(path)!r}, which is no folder of CIFAR's binary files; leave --source out, or give one.")
    files = sorted(file for file in path.iterdir() if file.is_file() and (_part_of(file.name) or file.name in _NAMES_FILES))
    statuses = [file.stat() for file in files]
    return Found("cifar", str(path), [FoundFile(f.name, str(f), s.st_size, s.st_mtime_ns) for f, s in zip(files, statuses, strict=True)])


def open_source(found: Found, labels: str | None) -> Source:
    """The images of a folder."""
    return _open(found.path, {file.name: FileRange(file.path, 0, file.bytes) for file in found.files}, labels)


def open_contents(path: str, contents: Contents, labels: str | None) -> Source:
    """The images of an archive."""
    ranges = {posixpath.basename(name): place for name, place in contents.places.items() if isinstance(place, FileRange)}
    return _open(path, ranges, labels)


def _open(path: str, ranges: dict[str, FileRange], labels: str | None) -> Source:
    binaries = sorted(name for name in ranges if _part_of(name))
    if not binaries:
        raise InputError(f"SRC is {path!r}, which has none of CIFAR's binary files (data_batch_1.bin, train.bin, ...); leave --source out.")
    version = _version(path, binaries, labels)
    parts: dict[str, list[Item]] = {"train": []}
    for name in binaries:
        parts.setdefault(_part_of(name) or "", []).extend(_items(name, ranges[name], version))
    return Source("cifar", parts, _class_names(ranges, version))


def _part_of(name: str) -> str | None:
    if _CIFAR_10_TRAIN.fullmatch(name) or name == "train.bin":
        return "train"
    return "test" if name in ("test_batch.bin", "test.bin") else None


def _version(path: str, binaries: list[str], labels: str | None) -> _Version:
    is_100 = {"train.bin", "test.bin"} & set(binaries)
    if not is_100 and labels is not None:
        raise InputError(f"--cifar-labels is {labels!r}, but SRC is CIFAR-10, which has one kind of labels; leave it out.")
    if is_100 and len(is_100) < len(binaries):
        raise InputError(f"SRC is {path!r}, which has files of CIFAR-10 and CIFAR-100; pack them from folders of their own.")
    if not is_100:
        return _Version(1, 0, 10, "batches.meta.txt")
    return _Version(2, 0, 20, "coarse_label_names.txt") if labels == "coarse" else _Version(2, 1, 100, "fine_label_names.txt")


def _items(name: str, place: FileRange, version: _Version) -> list[Item]:
    record_bytes = version.num_label_bytes + _PIXEL_BYTES
    num_records, rest = divmod(place.bytes, record_bytes)
    if rest or not num_records:
        raise InputError(f"SRC holds {name} of {place.bytes} bytes, which is no whole number of records of {record_bytes}; fetch it again.")
    records = np.memmap(place.path, np.uint8, "r", place.offset, (num_records, record_bytes))
    labels = np.array(records[:, version.label_byte])
    if labels.max() >= version.num_classes:
        raise InputError(f"SRC holds {name} with the label {labels.max()}, but there are {version.num_classes} classes; fetch it again.")
    first = place.offset + version.num_label_bytes
    stem = name.removesuffix(".bin")
    return [
        Item(f"{stem}/{number:08d}", PixelRange(place.path, first + number * record_bytes, (SIDE, SIDE, 3), planar=True), label)
        for number, label in enumerate(labels.tolist())
    ]


def _class_names(ranges: dict[str, FileRange], version: _Version) -> list[str] | None:
    if version.names_file not in ranges:
        return None
    try:
        names = read_content(ranges[version.names_file]).decode().split()
    except (UnreadableError, UnicodeDecodeError) as error:
        raise InputError(f"SRC holds {version.names_file}, which {error}; fetch it again.") from None
    if len(names) != version.num_classes:
        raise InputError(f"SRC holds {version.names_file} with {len(names)} names for {version.num_classes} classes; fetch it again.")
    return names
