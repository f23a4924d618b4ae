"""Sources to pack, and what became of them; read without distgan: with webdataset, tarfile, Pillow and numpy."""

import gzip
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from distgan.data.__main__ import main
from tests.shards import decode, encode, noise, read_webdataset


@dataclass(frozen=True)
class Packed:
    """A sample of a pack as webdataset reads it."""

    extension: str
    content: bytes
    label: int | None

    @property
    def pixels(self) -> np.ndarray:
        return np.load(io.BytesIO(self.content), allow_pickle=False) if self.extension == "npy" else decode(self.content)


def pack(source: Path | str, destination: Path, *options: str | Path | int) -> dict[str, Packed]:
    """Pack in this process with one worker; returns the samples by key, in the order of the shards."""
    assert main(["pack", str(source), str(destination), "--workers", "1", *map(str, options)]) == 0
    return samples(destination)


def refusal(capsys: pytest.CaptureFixture[str], source: Path | str, destination: Path, *options: str | Path | int) -> str:
    """The sentence with which packing is refused; nothing is left behind."""
    before = sorted(destination.parent.iterdir())
    assert main(["pack", str(source), str(destination), "--workers", "1", *map(str, options)]) == 2
    assert sorted(destination.parent.iterdir()) == before
    sentence = capsys.readouterr().err
    assert sentence.startswith("distgan.data: error: ")
    assert sentence.count("\n") == 1
    return sentence


def samples(directory: Path) -> dict[str, Packed]:
    """The samples of a directory of shards by key."""
    found: dict[str, Packed] = {}
    shards = sorted(directory.glob("*.tar"))
    for sample in read_webdataset(shards) if shards else []:
        members = {name: content for name, content in sample.items() if not name.startswith("__")}
        label = members.pop("cls", None)
        ((extension, content),) = members.items()
        assert sample["__key__"] not in found
        found[sample["__key__"]] = Packed(extension, content, None if label is None else int(label))
    return found


def report(directory: Path) -> dict:
    """What pack.json says."""
    return json.loads((directory / "pack.json").read_text())


def left_out(directory: Path) -> dict[str, str]:
    """Name -> reason of what pack.json lists."""
    return {entry["name"]: entry["reason"] for entry in report(directory)["left_out"]}


def contents(directory: Path) -> dict[str, bytes]:
    """All files below a directory, byte for byte."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def write_files(directory: Path, files: Mapping[str, bytes | str]) -> Path:
    """Files by their path in `directory`."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


def class_files(num_images: int = 3, side: int = 8, channels: int = 3) -> dict[str, bytes]:
    """PNGs of noise in the folders bird, cat and dog."""
    return {
        f"{name}/{number}.png": encode(noise(100 * place + number, side, side, channels))
        for place, name in enumerate(("bird", "cat", "dog"))
        for number in range(num_images)
    }


def idx(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(
    directory: Path, num_train: int = 5, num_test: int = 3, compressed: bool = True
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MNIST's four files; returns images and labels by part."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    for part, start, size in (("train", 0, num_train), ("t10k", 1000, num_test)):
        images = np.stack([noise(start + number, 28, 28) for number in range(size)])
        labels = (np.arange(size) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = gzip.compress(idx(array), 1) if compressed else idx(array)
            (directory / (f"{name}.gz" if compressed else name)).write_bytes(content)
        made[part] = (images, labels)
    return made


def cifar_records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """[N, 32, 32, 3] and label columns of [N] as CIFAR's binary records."""
    columns = [column.astype(np.uint8)[:, None] for column in labels]
    return np.concatenate([*columns, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).tobytes()
