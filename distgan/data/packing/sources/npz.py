"""A .npz of images and labels. Arrays are read by position; nothing is ever unpickled."""

import struct
import zipfile
from collections import deque
from pathlib import Path
from typing import IO

import numpy as np

from distgan.data.npy import read_npy_header
from distgan.data.packing.archives import scan_zip
from distgan.data.packing.items import Found, FoundFile, Item, Source, ZipMember
from distgan.data.packing.places import UnreadableError, zip_data_offset
from distgan.data.packing.scratch import chunks, unpack
from distgan.data.packing.sources.arrays import items_of
from distgan.errors import InputError

_NAMES = {
    "train": (("images", "x", "arr_0", "x_train"), ("labels", "y", "arr_1", "y_train")),
    "test": (("x_test",), ("y_test",)),
}


def find(path: Path) -> Found:
    """The file itself."""
    if not path.is_file():
        raise InputError(f"SRC is {str(path)!r}, which is no .npz file; leave --source out, or give one.")
    status = path.stat()
    return Found("npz", str(path), [FoundFile(path.name, str(path), status.st_size, status.st_mtime_ns)])


def open_source(found: Found, scratch: Path) -> Source:
    """The parts whose arrays are there."""
    places = scan_zip(Path(found.path)).places
    members = {name.removesuffix(".npy"): place for name, place in places.items() if isinstance(place, ZipMember)}
    parts: dict[str, list[Item]] = {}
    for part, (image_names, label_names) in _NAMES.items():
        images, labels = _only(members, image_names), _only(members, label_names)
        if images is not None:
            parts[part] = _items(found.path, scratch, images, labels, members)
    if "train" not in parts:
        raise InputError(
            f"SRC is {found.path!r}, which has {', '.join(sorted(members)) or 'nothing'} and no array of images "
            f"({', '.join(_NAMES['train'][0])}); name it so."
        )
    return Source("npz", parts)


def _only(members: dict[str, ZipMember], names: tuple[str, ...]) -> str | None:
    there = [name for name in names if name in members]
    if len(there) > 1:
        raise InputError(f"SRC has the arrays {' and '.join(there)}, of which one can be meant; save it with one of them.")
    return there[0] if there else None


def _items(path: str, scratch: Path, images: str, labels: str | None, members: dict[str, ZipMember]) -> list[Item]:
    file_path, offset, shape, dtype = _open(path, scratch, images, members[images])
    is_images = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not is_images:
        raise InputError(
            f"SRC has the array {images} of {dtype} {list(shape)}; save images as uint8 of [N, H, W], [N, H, W, 1] or [N, H, W, 3]."
        )
    shape = shape if shape[-1] == 3 and len(shape) == 4 else shape[:3]
    return items_of(file_path, offset, shape, None if labels is None else _labels(path, scratch, labels, members[labels]), images)


def _labels(path: str, scratch: Path, name: str, member: ZipMember) -> np.ndarray:
    file_path, offset, shape, dtype = _open(path, scratch, name, member)
    if dtype.kind not in "iu" or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise InputError(f"SRC has the array {name} of {dtype} {list(shape)}; save labels as whole numbers of [N].")
    return np.fromfile(file_path, dtype, shape[0], offset=offset)


def _open(path: str, scratch: Path, name: str, member: ZipMember) -> tuple[str, int, tuple[int, ...], np.dtype]:
    """The file that holds an array's bytes, where they begin, shape and dtype; raises InputError if the header does not fit."""
    try:
        file_path, start, num_bytes = _plain(path, scratch, name, member)
        with open(file_path, "rb") as file:
            file.seek(start)
            shape, is_fortran, dtype = _header(name, file)
            offset = file.tell()
    except UnreadableError as error:
        raise InputError(f"SRC has the array {name}, which {error}; save it again.") from None
    if dtype.hasobject:
        raise InputError(f"SRC has the array {name} of Python objects, which are never loaded; save numbers.")
    if is_fortran:
        raise InputError(f"SRC has the array {name} in Fortran order; save numpy.ascontiguousarray of it.")
    claimed_bytes = dtype.itemsize
    for length in shape:
        claimed_bytes *= int(length)
    if min(shape, default=0) < 0 or start + num_bytes - offset != claimed_bytes:
        raise InputError(f"SRC has the array {name}, whose header promises {claimed_bytes} bytes, which are not there; save it again.")
    return file_path, offset, shape, dtype


def _plain(path: str, scratch: Path, name: str, member: ZipMember) -> tuple[str, int, int]:
    """File, start and length of a member's bytes: in the .npz itself if they are stored as they are."""
    target = scratch / f"{name}.npy"
    is_stored = member.method == zipfile.ZIP_STORED
    if not target.exists():
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
                if is_stored:
                    deque(chunks(stream, f"{name}.npy"), maxlen=0)  # for the checksum
                else:
                    unpack(stream, target, member.compressed_bytes, f"{name}.npy")
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, struct.error) as error:  # of the local header
            raise InputError(f"SRC holds {name}.npy, which is damaged or cut short ({error}); fetch or write it again.") from None
    return (path, zip_data_offset(member), member.bytes) if is_stored else (str(target), 0, target.stat().st_size)


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        return read_npy_header(file)
    except Exception as error:  # numpy evaluates the header's text: hostile ones raise nearly anything
        raise InputError(f"SRC has the array {name}, which is no .npy ({error}); save it with numpy.savez.") from None
