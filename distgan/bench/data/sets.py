"""The images that the benchmark of data reads, as shards and as single files."""

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.data.decoding import Facts, decode_into, inspect

NUM_CLASSES = 10


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind; `directory` holds shards/*.tar and files/*.EXTENSION.

    Attributes:
        extension: of the images in their shards, and of the files.
        detail: side of the noise that they are enlarged from; less of it makes them smoother, and smaller when encoded.
    """

    name: str
    extension: str
    side: int
    detail: int
    num_images: int
    num_shards: int
    directory: Path

    url: str | None = None  # of the shards where a server serves them

    @property
    def is_remote(self) -> bool:
        return self.url is not None

    @property
    def shards(self) -> list[str]:
        """Their paths or URLs."""
        paths = sorted((self.directory / "shards").glob("*.tar"))
        return [str(path) if self.url is None else self.url + path.name for path in paths]

    @property
    def files(self) -> list[Path]:
        return sorted((self.directory / "files").glob(f"*.{self.extension}"))

    def write(self) -> None:
        """Make the images, their shards (by webdataset's own writer) and their files."""
        from webdataset.writer import ShardWriter

        (self.directory / "shards").mkdir(parents=True)
        (self.directory / "files").mkdir()
        pattern = str(self.directory / "shards" / "%06d.tar")
        with ShardWriter(pattern, maxcount=-(-self.num_images // self.num_shards), verbose=0, mtime=0) as writer:
            for number, payload in enumerate(self._payloads()):
                label = str(number % NUM_CLASSES).encode()
                writer.write({"__key__": f"{number:06d}", self.extension: payload, "cls": label})
                (self.directory / "files" / f"{number:06d}.{self.extension}").write_bytes(payload)

    def pixels(self, payload: bytes) -> np.ndarray:
        """The decoder that all contestants share: [side, side, 3] uint8."""
        out = np.empty((self.side, self.side, 3), np.uint8)
        facts = self.facts
        decode_into(out, payload[facts.start :], facts.decoder, facts.width, facts.height, facts.channels)
        return out

    def known(self) -> dict[bytes, int]:
        """{pixels: label} of every image."""
        return {self.pixels(path.read_bytes()).tobytes(): number % NUM_CLASSES for number, path in enumerate(self.files)}

    @functools.cached_property
    def facts(self) -> Facts:
        """What all images of the set have in common."""
        return inspect(next(self._payloads()), self.extension)

    def _payloads(self) -> Iterator[bytes]:
        random = np.random.default_rng(0)
        for _ in range(self.num_images):
            noise = Image.fromarray(random.integers(0, 256, (self.detail, self.detail, 3), dtype=np.uint8))
            image = noise.resize((self.side, self.side), Image.Resampling.BICUBIC)
            content = io.BytesIO()
            if self.extension == "npy":
                np.save(content, np.asarray(image), allow_pickle=False)
            else:
                image.save(content, "jpeg" if self.extension == "jpg" else self.extension, quality=90)
            yield content.getvalue()


def image_sets(directory: Path, scale: float = 1.0) -> list[ImageSet]:
    """The three kinds, not yet written; `scale` makes them smaller, but not so small that a worker of webdataset has no batch."""
    small, large = (max(round(number * scale), 400) for number in (20_000, 4_000))
    return [
        ImageSet("32x32 png", "png", 32, 8, small, 20, directory / "png"),
        ImageSet("256x256 jpeg", "jpg", 256, 32, large, 20, directory / "jpeg"),
        ImageSet("32x32 raw", "npy", 32, 8, small, 20, directory / "raw"),
    ]
