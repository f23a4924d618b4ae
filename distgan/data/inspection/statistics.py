"""What a set of shards holds: labels, sizes, decoders and bytes of all samples; pixels and formats of some of them."""

import io
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from distgan.data.decoding import Decoder, UnreadableImageError, decode_whole
from distgan.data.inspection.findings import Finding
from distgan.data.inspection.verification import BYTES_DIFFER, NOT_DECODED
from distgan.data.parallel import in_processes
from distgan.data.shards.index import Shard
from distgan.data.shards.manifest import Manifest
from distgan.errors import InputError

NUM_VALUES = 256  # of a pixel's channel


@dataclass
class Pixels:
    """The images that were decoded.

    Attributes:
        histogram: how often each value occurs, [NUM_VALUES, channels of the set] int64; grey counts in each channel of a set in colour.
        formats: how many images are stored as what.
        damaged: those that could not be decoded.
    """

    histogram: np.ndarray
    num_images: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    damaged: list[Finding] = field(default_factory=list)

    def __iadd__(self, other: "Pixels") -> Self:
        self.histogram += other.histogram
        self.num_images += other.num_images
        self.formats += other.formats
        self.damaged += other.damaged
        return self

    def mean(self) -> list[float]:
        """Of each channel, in [0, 1], over all pixels."""
        return [total / count / (NUM_VALUES - 1) for count, total, _ in self._moments()]

    def std(self) -> list[float]:
        """The standard deviation of each channel over all pixels (of the population), in the same unit as the mean."""
        # Whole numbers until the root: nothing cancels, whatever the number of pixels.
        return [math.sqrt(count * squares - total**2) / count / (NUM_VALUES - 1) for count, total, squares in self._moments()]

    def _moments(self) -> list[tuple[int, int, int]]:
        """Of each channel: number, sum and sum of squares of its values, exactly."""
        values = np.arange(NUM_VALUES, dtype=object)
        return [(counts.sum(), (counts * values).sum(), (counts * values**2).sum()) for counts in self.histogram.T.astype(object)]


@dataclass(frozen=True)
class Statistics:
    """Of all samples, but for `pixels`.

    Attributes:
        labels: [N] int32, in the order of the manifest; grouping.NO_LABEL: none.
        bytes: [N] uint32, of each image as it is stored.
        sizes: number of images by (width, height).
        decoders: number of images by who decodes them.
        channels: number of images by their channels, 1 or 3.
    """

    labels: np.ndarray
    bytes: np.ndarray
    sizes: Counter[tuple[int, int]]
    decoders: Counter[str]
    channels: Counter[int]
    pixels: Pixels


def measure(manifest: Manifest, max_decoded: int) -> Statistics:
    """Read the indexes of all shards and decode up to `max_decoded` images, in processes.

    Raises:
        InputError: a shard or an index cannot be read.
    """
    sizes = [shard.record.num_samples for shard in manifest.shards]
    places = by_shard(chosen(manifest.num_samples, max_decoded), sizes)
    share = min(1.0, max_decoded / manifest.num_samples)
    num_bytes = int(share * sum(shard.record.bytes for shard in manifest.shards))
    tasks = [(shard, own, manifest.channels) for shard, own in zip(manifest.shards, places, strict=True)]
    parts = in_processes(measure_shard, tasks, num_bytes)
    labels: list[np.ndarray] = []
    stored_bytes: list[np.ndarray] = []
    image_sizes, decoders, channels, pixels = Counter(), Counter(), Counter(), _no_pixels(manifest.channels)
    # disable=None: no bar where nobody watches
    for part in tqdm(parts, total=len(tasks), desc="reading", unit="shard", disable=None):
        labels.append(part.labels)
        stored_bytes.append(part.bytes)
        image_sizes.update(part.sizes)
        decoders.update(part.decoders)
        channels.update(part.channels)
        pixels += part.pixels
    return Statistics(np.concatenate(labels), np.concatenate(stored_bytes), image_sizes, decoders, channels, pixels)


def chosen(num_samples: int, num_chosen: int) -> np.ndarray:
    """The numbers of samples spread evenly over a set, ascending int64: one of each of `num_chosen` equal stretches, or all of them.

    Which one of a stretch is drawn, the same at every call: a step of one length might meet one class alone, where classes take turns.
    """
    if num_chosen >= num_samples:
        return np.arange(num_samples)
    ends = np.arange(num_chosen + 1) * num_samples // num_chosen
    return np.random.default_rng(0).integers(ends[:-1], ends[1:])


def by_shard(numbers: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Ascending numbers of samples -> for each shard, which has so many samples, the places of its own."""
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(numbers, ends)
    return [own - start for own, start in zip(np.split(numbers, cuts[:-1]), ends - sizes, strict=True)]


def measure_shard(shard: Shard, places: np.ndarray, num_channels: int) -> Statistics:
    """The statistics of one shard; decodes the images at `places`.

    Args:
        num_channels: of the set.

    Raises:
        InputError: the shard or its index cannot be read.
    """
    try:
        if not shard.is_index_whole():
            raise InputError(f"{shard.index_file} is damaged (its CRC-32 differs); remove it, so that the shard is indexed anew.")
        rows = shard.load_index()
        pixels = _decoded(shard, rows, places, num_channels)
    except OSError as error:
        raise InputError(f"{shard.path} or its index cannot be read ({error.strerror}); make them readable.") from None
    sizes, counts = np.unique(np.stack([rows["width"], rows["height"]], axis=1), axis=0, return_counts=True)
    return Statistics(
        labels=np.array(rows["label"]),
        bytes=np.array(rows["bytes"]),
        sizes=Counter(dict(zip(map(tuple, sizes.tolist()), counts.tolist(), strict=True))),
        decoders=Counter(Decoder(number).name for number in rows["decoder"].tolist()),
        channels=Counter(rows["channels"].tolist()),
        pixels=pixels,
    )


def _decoded(shard: Shard, rows: np.ndarray, places: np.ndarray, num_channels: int) -> Pixels:
    pixels = _no_pixels(num_channels)
    damaged: dict[int, str] = {}
    with open(shard.path, "rb") as file:
        for place in places.tolist():
            offset, num_bytes, crc32, _, width, height, channels, decoder = rows[place].item()
            file.seek(offset)
            payload = file.read(num_bytes)
            if zlib.crc32(payload) != crc32:
                damaged[place] = BYTES_DIFFER
                continue
            try:
                image = decode_whole(payload, Decoder(decoder), width, height, channels)
            except UnreadableImageError as error:
                damaged[place] = f"{NOT_DECODED} ({error})"
                continue
            # Pillow counts in C; NumPy's bincount would make 8 bytes of each value first.
            counts = Image.fromarray(image[..., 0] if channels == 1 else image).histogram()
            pixels.histogram += np.array(counts).reshape(channels, NUM_VALUES).T
            pixels.formats[_format(payload, Decoder(decoder))] += 1
            pixels.num_images += 1
    keys = shard.load_keys() if damaged else []
    pixels.damaged = [Finding(shard.path, keys[place], reason) for place, reason in damaged.items()]
    return pixels


def _format(payload: bytes, decoder: Decoder) -> str:
    """As Pillow calls it; NPY: a raw array."""
    if decoder is Decoder.RAW:
        return "NPY"
    with Image.open(io.BytesIO(payload)) as image:
        return image.format or "unknown"


def _no_pixels(num_channels: int) -> Pixels:
    return Pixels(np.zeros((NUM_VALUES, num_channels), np.int64))
