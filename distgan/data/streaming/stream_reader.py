"""Shards that cannot be indexed (commands, plain servers, compressed tars) -> decoded batches, by way of webdataset and DataLoader.

Every worker of every rank draws shards with replacement, for ever, from a seed of its own: no epoch ends, so all ranks take the same number
of steps whatever the shards hold. What has been read is not remembered: a resumed run draws anew.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import ResampledShards

from distgan.batch import BatchLayout
from distgan.data.decoding import UnreadableImageError, decode_unseen_into
from distgan.data.reading.reader import MAX_REPLACEMENTS, RealImages, RealSlice
from distgan.data.reading.samples import ReadStatistics
from distgan.data.reading.worker import SliceShape
from distgan.data.shards.damage import FAIL, DamagedSampleError, DamagePolicy, Skip
from distgan.data.streaming.stream_samples import StreamedSample, StreamProblem, samples_of, shuffled
from distgan.process import outlive_stop_signals
from distgan.randomness import Randomness

APPROXIMATE = (
    "data.mode is stream: when the run is resumed, images it has seen may come again, or late; and as there is no index to hold them "
    "against, damage that leaves an image readable goes unnoticed."
)

T = TypeVar("T")


class StreamReader(RealImages):
    """An endless iterator of `RealSlice`, as `Reader` is; which images come depends on ranks, workers, and the batch it began with.

    Args:
        urls: of tars: paths, http(s)://..., or 'pipe:' and a command of the shell.
        layout: which part of each batch this rank reads.
        image_size, channels: what every image is made to be, as by `Reader`.
        num_classes: every sample must have a label below it; None: it may have any, or none.
        seed: of the run.
        num_workers: processes, each of which reads a stream of its own; 0: read when asked, without any.
        first_batch: number of the batch to begin with; each draws other shards.
        pin_memory: hand out page-locked tensors, for copies to a GPU.
        policy: what to do about a damaged sample. One that is skipped is replaced by the next one.
    """

    def __init__(
        self,
        urls: Sequence[str],
        layout: BatchLayout,
        image_size: int,
        channels: int,
        num_classes: int | None,
        seed: int,
        num_workers: int,
        first_batch: int = 0,
        pin_memory: bool = False,
        policy: DamagePolicy = FAIL,
    ) -> None:
        super().__init__()
        self._layout, self._policy, self._pin_memory = layout, policy, pin_memory
        self._shape = SliceShape(layout.slice_size, image_size, channels)
        self._next_slice = first_batch * layout.accumulation_steps
        seed_of_worker = functools.partial(_seed_of_worker, seed, layout.rank, first_batch)
        dataset = _Slices(urls, self._shape, num_classes, policy.skip, seed_of_worker)
        watched, self._lifeline = os.pipe()
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,  # arrays, which go through a pipe; tensors would take /dev/shm, which containers make small
            worker_init_fn=functools.partial(_begin_worker, watched, self._lifeline),
            multiprocessing_context="fork" if num_workers else None,  # as DataLoader's own default is, or was; it needs no second import
            generator=torch.Generator(),  # of a seed that nobody uses; not torch's own
        )
        self._slices: Iterator[_StreamedSlice] = iter(loader)
        os.close(watched)
        self._num_read = self._num_skipped = 0
        self._told: set[tuple[str, str]] = set()

    def __next__(self) -> RealSlice:
        begin = time.perf_counter()
        part = next(self._slices)
        self._statistics += part.statistics
        self._num_read += part.statistics.samples
        for problem in part.problems:
            self._count(problem)
        if part.images is None:
            raise DamagedSampleError(f"{MAX_REPLACEMENTS} samples in a row are damaged. {part.problems[-1].sentence}")
        images = torch.empty(self._shape.images, dtype=torch.uint8, pin_memory=self._pin_memory)
        labels = torch.empty(self._shape.size, dtype=torch.int64, pin_memory=self._pin_memory)
        images.copy_(torch.from_numpy(part.images))
        labels.copy_(torch.from_numpy(part.labels))
        numbers = self._layout.numbers(self._next_slice)
        self._next_slice += 1
        self._statistics.wait_seconds += time.perf_counter() - begin
        return RealSlice(images.permute(0, 3, 1, 2), labels, numbers)

    def close(self) -> None:
        """Stop reading ahead."""
        os.close(self._lifeline)  # first: a worker may be waiting for a server
        self._slices = iter(())

    def _count(self, problem: StreamProblem) -> None:
        if not self._policy.skip:
            raise DamagedSampleError(f"{problem.sentence} To train without what is damaged, set data.on_error to skip.")
        self._statistics.skipped[problem.reason] += 1
        self._num_skipped += 1
        skip = Skip(problem.shard, problem.key, problem.sentence)
        if (skip.shard, skip.key) not in self._told:
            self._told.add((skip.shard, skip.key))
            self._new_skips.append(skip)
        self._policy.check_streamed(self._num_skipped, self._num_read, skip)


class _StreamedSlice(NamedTuple):
    """What a worker sends.

    Attributes:
        images: [size, side, side, C] uint8; None: the last of the problems was one too many.
        labels: [size] int64.
        problems: what was passed over on the way.
    """

    images: np.ndarray | None
    labels: np.ndarray
    problems: list[StreamProblem]
    statistics: ReadStatistics


class _Slices(IterableDataset):
    """One worker's slices, without end."""

    def __init__(
        self, urls: Sequence[str], shape: SliceShape, num_classes: int | None, skip: bool, seed_of_worker: Callable[[int], int]
    ) -> None:
        self._urls, self._shape, self._num_classes = list(urls), shape, num_classes
        self._max_in_a_row = MAX_REPLACEMENTS if skip else 1
        self._seed_of_worker = seed_of_worker

    def __iter__(self) -> Iterator[_StreamedSlice]:
        worker = get_worker_info()
        seed = self._seed_of_worker(0 if worker is None else worker.id)
        shards = ResampledShards(self._urls, deterministic=True, worker_seed=lambda: seed)
        items = iter(DataPipeline(shards, self._samples, functools.partial(shuffled, seed=seed)))
        while True:
            yield self._slice(items)

    def _samples(self, shards: Iterable[dict[str, str]]) -> Iterator[StreamedSample | StreamProblem]:
        for shard in shards:
            yield from samples_of(shard["url"], self._num_classes)

    def _slice(self, items: Iterator[StreamedSample | StreamProblem]) -> _StreamedSlice:
        images, labels = np.empty(self._shape.images, np.uint8), np.empty(self._shape.size, np.int64)
        problems: list[StreamProblem] = []
        statistics = ReadStatistics()
        row = in_a_row = 0
        while row < self._shape.size:
            begin = time.perf_counter()
            item = next(items)
            middle = time.perf_counter()
            statistics.read_seconds += middle - begin
            if isinstance(item, StreamedSample):
                try:
                    decode_unseen_into(images[row], item.payload, item.extension)
                except UnreadableImageError as error:
                    sentence = f"{item.shard} holds {f'{item.key}.{item.extension}'!r}, {error}."
                    item = StreamProblem(item.shard, item.key, "decoding", sentence)
                else:
                    labels[row] = item.label
                    statistics.samples += 1
                    statistics.bytes += len(item.payload)
                    row, in_a_row = row + 1, 0
                statistics.decode_seconds += time.perf_counter() - middle
            if isinstance(item, StreamProblem):
                problems.append(item)
                in_a_row += 1
                if in_a_row == self._max_in_a_row:
                    return _StreamedSlice(None, labels, problems, statistics)
        return _StreamedSlice(images, labels, problems, statistics)


def _seed_of_worker(seed: int, rank: int, first_batch: int, worker: int) -> int:
    return Randomness(seed).operator_seed(f"data.stream.rank-{rank}.worker-{worker}", first_batch)


def _as_it_is(item: T) -> T:
    return item


def _begin_worker(watched: int, lifeline: int, worker: int) -> None:
    """In a worker: end when the rank does, and not before."""
    outlive_stop_signals()
    os.setpgid(0, 0)  # with the commands that it starts
    signal.signal(signal.SIGHUP, lambda *_: None)  # not SIG_IGN: they would inherit that
    os.close(lifeline)  # its own copy, so that the rank's is the last one
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()


def _end_with(watched: int) -> None:
    """End this process and its commands when the other end of `watched` is closed, however that came about."""
    os.read(watched, 1)
    os.killpg(0, signal.SIGHUP)
    os._exit(0)  # not by a signal, which the rank would take for an accident
