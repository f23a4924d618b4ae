"""Plan + shards -> decoded batches, read ahead by workers; damaged samples are replaced, or end the run, by their names."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from distgan.batch import BatchLayout
from distgan.data.plan import Plan
from distgan.data.reading.fetcher import Fetcher
from distgan.data.reading.samples import Problem, ReadStatistics, SampleReader
from distgan.data.reading.worker import DEPTH, SliceShape, Worker
from distgan.data.remote.cache import CacheSettings
from distgan.data.shards.damage import FAIL, DamagedSampleError, DamagePolicy, Skip
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.manifest import Manifest

LOCATED_AT_ONCE = 4096  # samples
MAX_REPLACEMENTS = 16  # of one sample: so many damaged ones in a row are no accident


@dataclass(frozen=True)
class RealSlice:
    """One rank's slice of one micro-batch as it comes from the shards; n = `BatchLayout.slice_size`."""

    images: torch.Tensor  # [n, C, H, W] uint8, channels last in memory
    labels: torch.Tensor  # [n] int64; -1 where there is none
    numbers: np.ndarray  # [n] int64: the samples' numbers in the run


class RealImages(ABC):
    """Where the real images come from, without end: `Reader`, or `streaming.StreamReader`."""

    def __init__(self) -> None:
        self._statistics: ReadStatistics = ReadStatistics()
        self._new_skips: list[Skip] = []

    def __iter__(self) -> Iterator[RealSlice]:
        return self

    @abstractmethod
    def __next__(self) -> RealSlice:
        """The next slice.

        Raises:
            DamagedSampleError: a sample cannot be read, and the run is not to go on without it.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop reading ahead."""

    def take_statistics(self) -> ReadStatistics:
        """What was read since the last call."""
        taken, self._statistics = self._statistics, ReadStatistics()
        return taken

    def take_skips(self) -> list[Skip]:
        """The samples that were skipped for the first time since the last call."""
        taken, self._new_skips = self._new_skips, []
        return taken


class Reader(RealImages):
    """An endless iterator of `RealSlice`: the slices of batch `first_batch`, then of the next one, in order.

    Args:
        manifest, plan: what there is and in which order it comes.
        layout: which part of each batch this rank reads.
        image_size, channels: what every image is made to be; images of another size are scaled so that they fill it, and
            centre-cropped.
        num_workers: processes, each of which reads up to DEPTH slices ahead; 0: read when asked, without any.
        first_batch: number of the batch to begin with: all the state there is.
        pin_memory: hand out page-locked tensors, for copies to a GPU.
        cache: of remote shards; None: there are none.
        fetch: whether to bring whole remote shards into the cache before they are needed, as training on a few nodes does; else
            only the parts that this rank needs are read.
        policy: what to do about a damaged sample. One that is skipped is replaced by the sample at its place in a later epoch:
            a pure function of its number, so that every rank keeps step and a resumed run sees the same.
        num_classes: every sample must have a label below it, else it is taken for a damaged one; None: it may have any, or none.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: Plan,
        layout: BatchLayout,
        image_size: int,
        channels: int,
        num_workers: int,
        first_batch: int = 0,
        pin_memory: bool = False,
        policy: DamagePolicy = FAIL,
        cache: CacheSettings | None = None,
        fetch: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self._plan, self._layout, self._policy, self._pin_memory = plan, layout, policy, pin_memory
        self._num_classes = num_classes
        self._shape = SliceShape(layout.slice_size, image_size, channels)
        self._shards, self._num_damaged = manifest.shards, manifest.num_damaged
        self._own = SampleReader(self._shards, cache, fetch)
        self._slices = itertools.count(first_batch * layout.accumulation_steps)
        self._fetcher = Fetcher(self._shards, cache) if cache and fetch else None
        self._places = self._located(first_batch * layout.accumulation_steps)
        self._workers = [Worker(self._shape, self._shards, cache, fetch) for _ in range(num_workers)]
        self._turns = itertools.cycle(self._workers)
        for _ in range(DEPTH):
            for worker in self._workers:
                worker.submit(*next(self._places))
        self._skipped: set[tuple[int, int]] = set()

    def __next__(self) -> RealSlice:
        begin = time.perf_counter()
        numbers = self._layout.numbers(next(self._slices))
        images = torch.empty(self._shape.images, dtype=torch.uint8, pin_memory=self._pin_memory)
        labels = torch.empty(len(numbers), dtype=torch.int64, pin_memory=self._pin_memory)
        if self._workers:
            worker = next(self._turns)
            shared_images, shared_labels, result = worker.take()
            images.copy_(torch.from_numpy(shared_images))
            labels.copy_(torch.from_numpy(shared_labels))
            worker.submit(*next(self._places))
            problems, statistics = result.problems, result.statistics
        else:
            problems, statistics = self._own.read(*next(self._places), images.numpy(), labels.numpy())
        self._statistics += statistics
        for problem in [*problems, *self._mislabelled(numbers, 0, labels.numpy(), problems)]:
            self._replace(problem, int(numbers[problem.row]), images.numpy(), labels.numpy())
        self._statistics.wait_seconds += time.perf_counter() - begin
        return RealSlice(images.permute(0, 3, 1, 2), labels, numbers)

    def close(self) -> None:
        """Stop reading ahead."""
        for helper in (*self._workers, *([self._fetcher] if self._fetcher else [])):
            helper.close()

    def _located(self, slice_number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The shards and places of every slice from this one on. Located many at a time: a plan costs a call, hardly a sample."""
        count = max(1, LOCATED_AT_ONCE // self._layout.slice_size)
        while True:
            numbers = np.stack([self._layout.numbers(slice_number + ahead) for ahead in range(count)])
            if self._fetcher is not None:
                self._fetcher.want(self._plan.shards_ahead(int(numbers.min()), int(numbers.max())))
            shards, places = self._plan.locate(numbers.ravel())
            yield from zip(shards.reshape(numbers.shape), places.reshape(numbers.shape), strict=True)
            slice_number += count

    def _replace(self, problem: Problem, number: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Put another sample into a row."""
        row = slice(problem.row, problem.row + 1)
        for epochs_later in range(1, MAX_REPLACEMENTS + 1):
            self._count(problem)
            place = self._plan.locate(np.array([number]), epochs_later)
            problems, statistics = self._own.read(*place, images[row], labels[row])
            self._statistics += statistics
            problems = problems or self._mislabelled(np.array([number]), epochs_later, labels[row], problems)
            if not problems:
                return
            problem = problems[0]
        raise DamagedSampleError(f"{MAX_REPLACEMENTS} samples in a row are damaged. {problem.sentence}")

    def _mislabelled(self, numbers: np.ndarray, epochs_later: int, labels: np.ndarray, problems: list[Problem]) -> list[Problem]:
        """A problem for each sample that has not the label it needs, and no problem yet."""
        if self._num_classes is None:
            return []
        is_mislabelled = (labels == NO_LABEL) | (labels >= self._num_classes)
        is_mislabelled[[problem.row for problem in problems]] = False
        rows = np.flatnonzero(is_mislabelled)
        if len(rows) == 0:
            return []
        found = []
        shards, places = self._plan.locate(numbers[rows], epochs_later)
        for row, number, place in zip(rows.tolist(), shards.tolist(), places.tolist(), strict=True):
            shard = self._shards[number]
            key = shard.load_keys()[place]
            what = "no label (.cls)" if labels[row] == NO_LABEL else f"the label {labels[row]}, but there are {self._num_classes} classes"
            found.append(Problem(row, number, place, key, "label", f"The sample {key!r} of {shard.location} has {what}."))
        return found

    def _count(self, problem: Problem) -> None:
        if not self._policy.skip:
            shard = self._shards[problem.shard]
            if shard.is_remote:
                mend = "Put the right file back there; or index the shards anew where they lie, and put that manifest beside them"
            else:
                mend = f"Put the right files back; or remove {shard.index_file} and start again, so that the shard is indexed anew"
            raise DamagedSampleError(f"{problem.sentence} {mend}; or set data.on_error to skip.")
        self._statistics.skipped[problem.reason] += 1
        if (problem.shard, problem.place) in self._skipped:
            return
        self._skipped.add((problem.shard, problem.place))
        self._new_skips.append(Skip(self._shards[problem.shard].location, problem.key, problem.sentence, problem.place))
        self._policy.check_skipped(len(self._skipped), self._num_damaged, self._plan.num_samples, self._new_skips[-1])
