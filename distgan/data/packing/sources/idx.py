"""MNIST's IDX files (http://yann.lecun.com/exdb/mnist): a big-endian header, then uint8; plain or .gz."""

import math
import re
from pathlib import Path

import numpy as np

from distgan.data.packing.items import Found, FoundFile, Item, Source
from distgan.data.packing.scratch import gunzipped
from distgan.data.packing.sources.arrays import items_of
from distgan.errors import InputError

_IMAGES = re.compile(r"(?P<start>.*)images(?P<middle>[-._])idx3-ubyte(\.gz)?", re.DOTALL)
_TEST = re.compile(r"(^|[-_.])(t10k|test)([-_.]|$)")


def is_images_name(name: str) -> bool:
    """Whether a file is an IDX file of images, by its name: train-images-idx3-ubyte.gz, x-images.idx3-ubyte."""
    return _IMAGES.fullmatch(name) is not None


def find(path: Path) -> Found:
    """The files of images and, beside each of them, of labels; one file of images is a training part, whatever its name."""
    images = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_images_name(file.name))
    if not images or not is_images_name(images[0].name):
        raise InputError(f"SRC is {str(path)!r}, which is no IDX file of images (*images-idx3-ubyte) and holds none; leave --source out.")
    plain = {file.name for file in images}
    images = [file for file in images if file.suffix != ".gz" or file.stem not in plain]
    files = [file for image in images for file in (image, _labels_of(image)) if file is not None]
    statuses = [file.stat() for file in files]
    return Found("idx", str(path), [FoundFile(f.name, str(f), s.st_size, s.st_mtime_ns) for f, s in zip(files, statuses, strict=True)])


def open_source(found: Found, scratch: Path) -> Source:
    """The images and labels of each part."""
    paths = [Path(file.path) for file in found.files]
    images = [path for path in paths if is_images_name(path.name)]
    parts: dict[str, list[Item]] = {"train": []}
    for path in images:
        part = "test" if len(images) > 1 and _TEST.search(path.name) else "train"
        if parts.get(part):
            raise InputError(f"SRC is {found.path!r}, which has several files of images for {part} ({path.name}); give one of them as SRC.")
        labels = _labels_of(path)
        labels_array = None if labels is None or labels not in paths else _labels(labels, scratch)
        parts[part] = _items(path, scratch, labels_array)
    return Source("idx", parts)


def _labels_of(images: Path) -> Path | None:
    """The file of labels beside one of images; plain or .gz, whatever the other is."""
    match = _IMAGES.fullmatch(images.name)
    assert match is not None, "only files of images are asked for"
    name = f"{match['start']}labels{match['middle']}idx1-ubyte"
    return next((path for path in (images.with_name(name), images.with_name(f"{name}.gz")) if path.is_file()), None)


def _items(path: Path, scratch: Path, labels: np.ndarray | None) -> list[Item]:
    content, offset, shape = _open(path, scratch, 3)
    return items_of(str(content), offset, shape, labels, path.name)


def _labels(path: Path, scratch: Path) -> np.ndarray:
    content, offset, shape = _open(path, scratch, 1)
    return np.fromfile(content, np.uint8, shape[0], offset=offset)


def _open(path: Path, scratch: Path, num_dimensions: int) -> tuple[Path, int, tuple[int, ...]]:
    """The plain file, where its data begins, and its shape; raises InputError if the header does not fit the file."""
    plain = gunzipped(path, scratch) if path.suffix == ".gz" else path
    header_bytes = 4 + 4 * num_dimensions
    with open(plain, "rb") as file:
        header = file.read(header_bytes)
    if len(header) < header_bytes or header[:4] != bytes([0, 0, 8, num_dimensions]):  # 8: uint8
        raise InputError(
            f"SRC holds {path.name}, which does not begin as an IDX file of uint8 in {num_dimensions} dimensions; fetch it again."
        )
    shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
    expected_bytes = header_bytes + math.prod(shape)
    if plain.stat().st_size != expected_bytes:
        raise InputError(
            f"SRC holds {path.name}, whose header promises {expected_bytes} bytes ({'x'.join(map(str, shape))}), but there are "
            f"{plain.stat().st_size}; fetch it again."
        )
    return plain, header_bytes, shape
