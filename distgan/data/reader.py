"""Sample plan + shards -> decoded batches, read ahead by threads.

Files are read with pread, not through a mapping: a shard that shrinks under a mapping kills the process with SIGBUS, here it is
an error with a name. Every image is checked against its checksum before it is decoded.
"""

import functools
import io
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from distgan.batch import BatchLayout
from distgan.data.index import UNREADABLE_IMAGE
from distgan.data.manifest import Manifest, Shard
from distgan.data.plan import SamplePlan

OPEN_SHARDS = 64


class DamagedSampleError(RuntimeError):
    """A sample is not what the manifest says it is."""


@dataclass(frozen=True)
class RealSlice:
    """One rank's slice of one micro-batch as it comes from the shards; n = `BatchLayout.slice_size`."""

    images: torch.Tensor  # [n, C, H, W] uint8
    labels: torch.Tensor  # [n] int64; -1 where there is none
    numbers: np.ndarray  # [n] int64: the samples' numbers in the run


class Reader:
    """An endless iterator of `RealSlice`: the slices of batch `first_batch`, then of the next one, in order.

    Args:
        manifest, plan: what there is and in which order it comes.
        layout: which part of each batch this rank reads.
        image_size, channels: what every image is made to be; images of another size are scaled so that they fill it, and
            centre-cropped.
        num_workers: threads; as many slices and two more are read ahead.
        first_batch: number of the batch to begin with: all the state there is.
        pin_memory: hand out page-locked tensors, for copies to a GPU.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: SamplePlan,
        layout: BatchLayout,
        image_size: int,
        channels: int,
        num_workers: int,
        first_batch: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._manifest, self._plan, self._layout = manifest, plan, layout
        self._image_size, self._channels, self._pin_memory = image_size, channels, pin_memory
        self._open = functools.lru_cache(OPEN_SHARDS)(lambda number: _OpenShard(manifest.shards[number]))
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="reader")
        self._next_slice = first_batch * layout.accumulation_steps
        self._ahead: deque[Future[RealSlice]] = deque()
        for _ in range(num_workers + 2):
            self._submit()
        self.wait_seconds = 0.0  # total time that the caller was kept waiting

    def __iter__(self) -> Iterator[RealSlice]:
        return self

    def __next__(self) -> RealSlice:
        begin = time.perf_counter()
        result = self._ahead.popleft().result()
        self._submit()
        self.wait_seconds += time.perf_counter() - begin
        return result

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        batch, micro_batch = divmod(self._next_slice, self._layout.accumulation_steps)
        self._ahead.append(self._pool.submit(self._read, batch, micro_batch))
        self._next_slice += 1

    def _read(self, batch: int, micro_batch: int) -> RealSlice:
        positions = self._layout.positions(micro_batch)
        numbers = batch * self._layout.batch_size + np.arange(positions.start, positions.stop)
        images = torch.empty((len(numbers), self._channels, self._image_size, self._image_size), dtype=torch.uint8)
        labels = torch.empty(len(numbers), dtype=torch.int64)
        if self._pin_memory:
            images, labels = images.pin_memory(), labels.pin_memory()
        shards, places = self._plan.locate(numbers)
        for row, (shard, place) in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
            pixels, label = self._open(shard).read(place, self._image_size, self._channels)
            images[row] = torch.from_numpy(pixels)
            labels[row] = label
        return RealSlice(images, labels, numbers)


def decode(payload: bytes, image_size: int, channels: int) -> np.ndarray:
    """An encoded image -> [channels, image_size, image_size] uint8; scaled to fill (antialiased) and centre-cropped if need be."""
    with Image.open(io.BytesIO(payload)) as image:
        if image.mode.startswith("I"):  # 16 bits, which convert() would clip instead of scale
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (image_size, image_size):
            image = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling.LANCZOS)
        pixels = np.array(image)  # [H, W] or [H, W, 3]
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


class _OpenShard:
    """A shard's descriptor and index; closed when the last thread that reads from it lets go."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._descriptor = os.open(shard.path, os.O_RDONLY)
        if (
            zlib.crc32(shard.index_file.read_bytes()) != shard.record.index_crc32
            or os.fstat(self._descriptor).st_size != shard.record.bytes
        ):
            raise DamagedSampleError(f"{shard.path} and {shard.index_file} are not what this run began with. {self._mend}")
        self._index = shard.load_index()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def _mend(self) -> str:
        return f"Put the right files back, or remove {self._shard.index_file} and start again, so that the shard is indexed anew."

    def read(self, place: int, image_size: int, channels: int) -> tuple[np.ndarray, int]:
        """The decoded image and the label of a sample."""
        sample = self._index[place]
        payload = os.pread(self._descriptor, int(sample["bytes"]), int(sample["offset"]))
        if len(payload) != sample["bytes"] or zlib.crc32(payload) != sample["crc32"]:
            raise DamagedSampleError(f"Sample {place} of {self._shard.path} is not what its index says: it was damaged. {self._mend}")
        try:
            return decode(payload, image_size, channels), int(sample["label"])
        except UNREADABLE_IMAGE as error:
            raise DamagedSampleError(f"Sample {place} of {self._shard.path} cannot be decoded ({error}). {self._mend}") from error
