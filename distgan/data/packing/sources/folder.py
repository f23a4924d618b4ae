"""A folder: one folder for each class, or flat, or with a label file."""

import os
from collections.abc import Iterator
from pathlib import Path

from distgan.data.packing.items import FileRange, Found, FoundFile, LeftOut, Source
from distgan.data.packing.labels import LABEL_FILES
from distgan.data.packing.sources.listing import extension, is_hidden, is_image, labelled, refuse_label_members
from distgan.errors import InputError


def find(path: Path) -> Found:
    """All images and label files below a folder; links to files and folders are followed."""
    if not path.is_dir():
        raise InputError(f"SRC is {str(path)!r}, which is not a folder; leave --source out, or give a folder.")
    files: list[FoundFile] = []
    left_out: list[LeftOut] = []
    num_other_files = 0
    for entry, name in _walk(path, ""):
        if extension(name) == "cls":
            refuse_label_members(str(path), name)
        if not is_image(name) and name not in LABEL_FILES:
            num_other_files += 1
        elif not entry.is_file():
            left_out.append(LeftOut(name, "is a link to nothing, or no plain file"))
        else:
            status = entry.stat()
            files.append(FoundFile(name, entry.path, status.st_size, status.st_mtime_ns))
    files.sort(key=lambda file: file.name)
    return Found("folder", str(path), files, left_out, num_other_files)


def open_source(found: Found) -> Source:
    """The images with the labels of their folders or of the label file."""
    places = {file.name: FileRange(file.path, 0, file.bytes) for file in found.files}
    return labelled("folder", found.path, places, found.left_out, num_other_files=found.num_other_files)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What lies below a folder, each with its path from the top, in the order of names; hidden things are not looked at."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise InputError(f"SRC holds {prefix!r}, a link to a folder that it lies in; take it out.")
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        else:
            yield entry, prefix + entry.name
