"""The samples that are packed, and what is told to those who read them."""

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

NUM_SAMPLES = 20
SIDE = 32
Member = tuple[str, bytes]  # name, content


@dataclass(frozen=True)
class Case:
    """How to read what was planted. All of it is text and numbers: it goes to other processes as JSON.

    Attributes:
        url: as data.url has it.
        urls: the same as webdataset has it.
        extension: of the images.
        workers: processes that read; 0: none.
        batch_size: 1: samples come one by one.
        world_size: ranks that share the samples.
        environment: of the process that reads.
        cache: directory for the cache of remote shards; None: there is none.
        replace: {file: other file that is copied over it}, `replace_after` shards were indexed or the first epoch is over.
        epochs: of which the last one counts.
    """

    url: str
    urls: Sequence[str]
    extension: str = "png"
    workers: int = 0
    batch_size: int = 1
    world_size: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    cache: str | None = None
    replace: dict[str, str] = field(default_factory=dict)
    replace_after: Literal["indexing", "epoch"] = "indexing"
    epochs: int = 1


@dataclass(frozen=True)
class Damage:
    """A kind of damage.

    Attributes:
        group: of kinds that belong together; a table is made of each.
        whole: how many of the samples it leaves as they were packed.
        declined: how many of these distgan does not take, by its rules.
        is_visible: whether anything in the shard tells; else nobody can know.
        plant: writes shards into an empty directory; what writes `canary` in there ran code out of the data.
    """

    group: str
    name: str
    whole: int
    declined: int
    is_visible: bool
    plant: Callable[[Path], Case]


DAMAGES: list[Damage] = []


def damage(
    group: str, name: str, whole: int, declined: int = 0, is_visible: bool = True, **reading: Any
) -> Callable[..., Callable[[Path], Case | None]]:
    """Register a function that plants into a directory. It returns a case, or None: shard.tar, read as the fields `reading` say."""

    def register(function: Callable[[Path], Case | None]) -> Callable[[Path], Case | None]:
        def plant(directory: Path) -> Case:
            shard = directory / "shard.tar"
            return function(directory) or Case(str(shard), [str(shard)], **reading)

        DAMAGES.append(Damage(group, name, whole, declined, is_visible, plant))
        return function

    return register


def pixels(number: int) -> np.ndarray:
    """The image of sample `number`: [SIDE, SIDE, 3] uint8, noise in dots of 2x2, which a PNG compresses. Its label is `number`."""
    noise = np.random.default_rng(number).integers(0, 256, (SIDE // 2, SIDE // 2, 3), dtype=np.uint8)
    return np.kron(noise, np.ones((2, 2, 1), np.uint8))


def encode(image: np.ndarray, extension: str = "png") -> bytes:
    """Pixels -> the bytes of an image file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, extension)
    return content.getvalue()


def members(numbers: Iterable[int] = range(NUM_SAMPLES), extension: str = "png") -> list[Member]:
    """Label and image of each sample; its key is its number in six digits."""
    return [
        member
        for number in numbers
        for member in ((f"{number:06d}.cls", str(number).encode()), (f"{number:06d}.{extension}", encode(pixels(number), extension)))
    ]


def pack(shard: Path, packed: Iterable[Member | tarfile.TarInfo]) -> dict[str, tuple[int, int]]:
    """Write a tar, the same bytes every time -> {name: (where its header begins, where its content does)}. A TarInfo has no content."""
    shard.parent.mkdir(exist_ok=True)
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT) as tar:
        for member in packed:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            information = tarfile.TarInfo(member[0])
            information.size = len(member[1])
            tar.addfile(information, io.BytesIO(member[1]))
    with tarfile.open(shard) as tar:
        return {member.name: (member.offset, member.offset_data) for member in tar}
