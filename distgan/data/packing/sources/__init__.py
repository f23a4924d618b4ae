"""The kinds of sources: `find` says what SRC is and which files it has, `open_source` reads names, places and labels."""

import errno
import os
from pathlib import Path

from distgan.data.packing.items import Found, Source
from distgan.data.packing.labels import LABEL_FILES
from distgan.data.packing.sources import archive, cifar, digits, folder, idx, npz, webdataset
from distgan.data.packing.sources.listing import is_image
from distgan.errors import InputError

KINDS = ("folder", "archive", "idx", "cifar", "npz", "webdataset", "digits")
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # for what is uncompressed, beside DST


def find(src: str, kind: str | None) -> Found:
    """What SRC is; looks at names and sizes only. `kind` overrides what would be detected.

    Raises:
        InputError: nothing is there, or it is not of that kind.
    """
    path = Path(os.path.expanduser(src))  # which leaves an unknown ~user as it is
    try:
        detected = kind or _detect(src, path)
        if detected == "digits":
            return digits.find()
        if detected == "webdataset":
            return webdataset.find(src)
        if not path.exists():
            raise InputError(f"SRC is {src!r}, which does not exist; give a folder, an archive, a data set's files or 'digits'.")
        if detected in ("archive", "tar") or (detected == "cifar" and path.is_file()):
            return archive.find(detected, path)
        return {"folder": folder.find, "idx": idx.find, "cifar": cifar.find, "npz": npz.find}[detected](path)
    except OSError as error:
        raise InputError(f"SRC is {src!r}, which cannot be read ({error.strerror}: {error.filename}); make it readable.") from None


def open_source(found: Found, scratch: Path, cifar_labels: str | None) -> Source:
    """The items of a source. What is compressed as a whole is uncompressed into the directory `scratch`.

    Raises:
        InputError: it is damaged, holds no images, or contradicts itself.
    """
    try:
        source = _open(found, scratch, cifar_labels)
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise
        raise InputError(f"SRC is {found.path!r}, which cannot be read ({error.strerror}: {error.filename}); make it readable.") from None
    if found.kind == "cifar" and source.kind != "cifar":
        raise InputError(f"SRC is {found.path!r}, which holds none of CIFAR's binary files; leave --source out.")
    if cifar_labels is not None and source.kind != "cifar":
        raise InputError(f"--cifar-labels is {cifar_labels!r}, but SRC is not CIFAR-100; leave it out.")
    if not any(source.parts.values()):
        left_out = f" ({source.left_out[0].name} {source.left_out[0].reason})" if source.left_out else ""
        raise InputError(f"SRC is {found.path!r}, which holds no image{left_out}; give what holds some.")
    return source


def _open(found: Found, scratch: Path, cifar_labels: str | None) -> Source:
    if found.kind == "tar" or (found.kind == "cifar" and Path(found.path).is_file()):
        return archive.open_tar(found, scratch, cifar_labels)
    if found.kind == "cifar":
        return cifar.open_source(found, cifar_labels)
    if found.kind == "folder":
        return folder.open_source(found)
    if found.kind == "webdataset":
        return webdataset.open_shards([Path(file.path) for file in found.files])
    return {"archive": archive.open_source, "idx": idx.open_source, "npz": npz.open_source, "digits": digits.open_source}[found.kind](
        found, scratch
    )


def _detect(src: str, path: Path) -> str:
    if src == "digits":
        if path.exists():
            raise InputError("SRC is 'digits', which is the embedded data set and also a path here; give ./digits or --source digits.")
        return "digits"
    if "://" in src or (not path.exists() and any(character in src for character in "{*?[")):
        return "webdataset"
    if path.is_dir():
        return _detect_folder(src, path)
    name = path.name.lower()
    suffixes = {".zip": "archive", ".npz": "npz"} | dict.fromkeys(archive.TARS, "tar")
    kind = next((kind for suffix, kind in suffixes.items() if name.endswith(suffix)), None)
    if kind is None and idx.is_images_name(path.name):
        kind = "idx"
    if kind is None and path.exists():
        raise InputError(
            f"SRC is {src!r}, a file of no kind that is known; give a {', '.join(suffixes)}, an IDX file of images "
            "(*images-idx3-ubyte), or a folder."
        )
    return kind or "folder"


def _detect_folder(src: str, path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if any(idx.is_images_name(name) for name in names):
        return "idx"
    if cifar.is_cifar(names):
        return "cifar"
    if {"data_batch_1", "batches.meta"} <= set(names):
        raise InputError(f"SRC is {src!r}, which is CIFAR as pickles, which are never opened; fetch the binary version.")
    if not any(name.endswith(".tar") and not name.startswith(".") for name in names):
        return "folder"
    beside = next((name for name in names if is_image(name) or name in LABEL_FILES), None)
    if beside is not None:
        raise InputError(f"SRC is {src!r}, which has tars and images ({beside}); add --source webdataset or --source folder.")
    return "webdataset"
