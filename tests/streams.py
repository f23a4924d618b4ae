"""Reading streams of `noise` in tests."""

import itertools
from collections.abc import Callable

import torch

from distgan.batch import BatchLayout
from distgan.data.reading.reader import RealSlice
from distgan.data.shards.damage import DamagePolicy
from distgan.data.streaming.stream_reader import StreamReader
from tests.shards import noise

ONE_RANK = BatchLayout(batch_size=8, accumulation_steps=1, world_size=1, rank=0)
SKIP = DamagePolicy(skip=True, max_skipped_share=0.9)
Start = Callable[..., StreamReader]  # what the fixture `start_stream` gives


def take(reader: StreamReader, count: int) -> list[RealSlice]:
    """The next slices."""
    return list(itertools.islice(reader, count))


def numbers_of(slices: list[RealSlice], count: int) -> list[int]:
    """Which `noise` each image [1, 8, 8] is; KeyError if it is none of the first `count`."""
    by_bytes = {noise(number).tobytes(): number for number in range(count)}
    return [by_bytes[image.numpy().tobytes()] for part in slices for image in part.images]


def labels_of(slices: list[RealSlice]) -> list[int]:
    """All labels."""
    return torch.cat([part.labels for part in slices]).tolist()
