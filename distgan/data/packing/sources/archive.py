"""A zip or tar: of a folder of images, of WebDataset samples, or CIFAR's original. Its members are read where they lie.

A tar that is compressed as a whole can only be read from end to end, so it is uncompressed first, into one file beside the
shards; no member becomes a file of its own.
"""

import posixpath
from pathlib import Path

from distgan.data.packing.archives import Contents, scan_tar, scan_zip
from distgan.data.packing.items import Found, FoundFile, LeftOut, Source
from distgan.data.packing.labels import LABEL_FILES
from distgan.data.packing.scratch import gunzipped
from distgan.data.packing.sources import cifar, webdataset
from distgan.data.packing.sources.listing import extension, is_hidden, is_image, labelled, refuse_label_members
from distgan.errors import InputError

GZIPPED = (".tar.gz", ".tgz")
TARS = (".tar", *GZIPPED)
SUFFIXES = (".zip", *TARS)


def find(kind: str, path: Path) -> Found:
    """The archive is its own only file. Of the kind `tar`, what it holds decides what it is."""
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"SRC is {str(path)!r}, which is no archive ({', '.join(SUFFIXES)}); leave --source out, or give one.")
    status = path.stat()
    return Found(kind, str(path), [FoundFile(path.name, str(path), status.st_size, status.st_mtime_ns)])


def open_source(found: Found, scratch: Path) -> Source:
    """The images of an archive of a folder.

    A folder that everything lies in is the archive's own, not a class.
    """
    path = Path(found.path)
    if path.name.lower().endswith(".zip"):
        contents = scan_zip(path)
        labels = next((name for name in contents.places if extension(name) == "cls" and not is_hidden(name)), None)
        if labels is not None:
            refuse_label_members(found.path, labels)
    else:
        contents = scan_tar(plain_tar(path, scratch), found.path)
    return _of_folder(found.path, contents)


def open_tar(found: Found, scratch: Path, cifar_labels: str | None) -> Source:
    """What a tar holds: CIFAR's files, samples with .cls, or else a folder of images."""
    plain = plain_tar(Path(found.path), scratch)
    contents = scan_tar(plain, found.path)
    if cifar.is_cifar(posixpath.basename(name) for name in contents.places):
        return cifar.open_contents(found.path, contents, cifar_labels)
    if any(extension(name) == "cls" and not is_hidden(name) for name in contents.places):
        try:
            return webdataset.open_shards([plain])
        except InputError as error:
            raise InputError(problem.replace(str(plain), found.path) for problem in error.problems) from None
    return _of_folder(found.path, contents)


def plain_tar(path: Path, scratch: Path) -> Path:
    """The tar itself, uncompressed into `scratch` if need be."""
    return gunzipped(path, scratch) if path.name.lower().endswith(GZIPPED) else path


def _of_folder(path: str, contents: Contents) -> Source:
    places = {name: place for name, place in contents.places.items() if not is_hidden(name)}
    wanted = {name: place for name, place in places.items() if is_image(name) or posixpath.basename(name) in LABEL_FILES}
    top = _common_folder(list(wanted))
    wanted = {name.removeprefix(top): place for name, place in wanted.items()}
    left_out = [LeftOut(entry.name.removeprefix(top), entry.reason) for entry in contents.left_out]
    return labelled("archive", path, wanted, left_out, contents.num_links, len(places) - len(wanted))


def _common_folder(names: list[str]) -> str:
    """'a/b/' for ['a/b/c/1.png', 'a/b/2.png']: the folders that everything lies in."""
    if not names:
        return ""
    folder = posixpath.commonpath([posixpath.dirname(name) for name in names])
    return f"{folder}/" if folder else ""
