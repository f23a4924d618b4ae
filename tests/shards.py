"""Shards for tests, written and read without distgan.data: with Python's tarfile and with webdataset's own writer."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter, TarWriter

Member = tuple[str, bytes]  # name, content


@dataclass(frozen=True)
class Sample:
    """A sample as an independent reader sees it."""

    key: str
    image: bytes
    label: int | None


def noise(number: int, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    """Random pixels that only `number` decides: [height, width] or [height, width, channels] uint8."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: np.ndarray | Image.Image, extension: str = "png") -> bytes:
    """Pixels or a Pillow image -> the bytes of an image file."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    content = io.BytesIO()
    image.save(content, {"jpg": "jpeg", "pgm": "ppm"}.get(extension, extension))
    return content.getvalue()


def decode(payload: bytes) -> np.ndarray:
    """The bytes of an image file -> [H, W] or [H, W, channels]."""
    with Image.open(io.BytesIO(payload)) as image:
        return np.array(image)


def sample_members(numbers: Iterable[int], side: int = 8, num_classes: int = 10) -> list[Member]:
    """A grey PNG of noise and a label for each number; keys are the numbers in six digits."""
    members = []
    for number in numbers:
        members += [(f"{number:06d}.cls", str(number % num_classes).encode()), (f"{number:06d}.png", encode(noise(number, side, side)))]
    return members


def write_tar(path: Path, members: Iterable[Member], format: int = tarfile.GNU_FORMAT) -> Path:
    """Write regular members, in this order, with Python's tarfile; the same bytes every time."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            information = tarfile.TarInfo(name)
            information.size = len(content)
            tar.addfile(information, io.BytesIO(content))
    return path


def write_webdataset(path: Path, members: Iterable[Member]) -> Path:
    """Write members, grouped by key, with webdataset's TarWriter."""
    with TarWriter(str(path), mtime=0, encoder=False) as writer:
        for sample in _grouped(members):
            writer.write(sample)
    return path


def write_shard_writer(directory: Path, members: Iterable[Member], samples_per_shard: int) -> list[Path]:
    """Write members, grouped by key, into several shards with webdataset's ShardWriter."""
    with ShardWriter(str(directory / "%06d.tar"), maxcount=samples_per_shard, verbose=0, encoder=False) as writer:
        for sample in _grouped(members):
            writer.write(sample)
    return sorted(directory.glob("*.tar"))


def write_set(directory: Path, sizes: Sequence[int], side: int = 8) -> list[Path]:
    """Shards 0000.tar, 0001.tar, ... of `sizes` samples each; samples are numbered through the set."""
    directory.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(sizes).tolist()
    return [
        write_tar(directory / f"{shard:04d}.tar", sample_members(range(end - size, end), side))
        for shard, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def read_tar(path: Path) -> list[Sample]:
    """The samples of a shard of `sample_members`, read with tarfile."""
    with tarfile.open(path) as tar:
        contents = {member.name: _content(tar, member) for member in tar if member.isfile()}
    keys = dict.fromkeys(name.partition(".")[0] for name in contents)
    return [Sample(key, contents[f"{key}.png"], int(contents[f"{key}.cls"])) for key in keys]


def read_webdataset(paths: Path | Sequence[Path]) -> list[dict]:
    """The samples of shards as webdataset yields them, not decoded."""
    names = [str(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    return list(WebDataset(names, shardshuffle=False))


def member_offsets(path: Path) -> dict[str, tuple[int, int]]:
    """For each member, by its name: where its first header begins, and where its content does."""
    with tarfile.open(path) as tar:
        return {member.name: (member.offset, member.offset_data) for member in tar}


def flip_bit(path: Path, offset: int) -> None:
    """Damage one byte of a file in place."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _grouped(members: Iterable[Member]) -> list[dict]:
    samples: dict[str, dict] = {}
    for name, content in members:
        folder, slash, last = name.rpartition("/")
        stem, _, extension = last.partition(".")
        key = folder + slash + stem
        samples.setdefault(key, {"__key__": key})[extension] = content
    return list(samples.values())
