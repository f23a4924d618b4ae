"""The work of packing, spread over processes: read, decode, fit, encode; results come back in order."""

import os
import signal
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from joblib import Parallel

from distgan.data.packing.items import PixelRange
from distgan.data.packing.places import UnreadableError, content_bytes, read_content, read_pixels
from distgan.data.packing.selection import Work
from distgan.data.packing.sources.listing import extension
from distgan.data.packing.transform import Encoded, Recipe, encode_file, encode_pixels
from distgan.data.parallel import handed_over
from distgan.data.writer import label_member, tar_blocks
from distgan.errors import InputError
from distgan.process import die_with_parent

_BATCH_SAMPLES = 64
_BATCH_BYTES = 2**20
_ROUND_BATCHES = 8  # for each worker
_ROUND_BYTES = 2**24  # for each worker


@dataclass(frozen=True, slots=True)
class Packed:
    """A sample as it goes into a shard: its blocks of the tar, and what is counted of it."""

    blocks: bytes
    width: int
    height: int
    channels: int


def pack_all(works: Sequence[Work], recipe: Recipe, num_workers: int, scratch: Path) -> Generator[Packed | str, None, None]:
    """The result of each work in order: blocks, or the reason why there are none.

    joblib starts on new work when old work is done, not when its results were taken: in one call, results would pile up
    behind a slow sample. So there are rounds, each with a bounded number of bytes. Closed early, the generator lets the
    round run out.

    Args:
        scratch: a directory to hand results over in.

    Raises:
        InputError: a worker was killed.
    """
    rounds = _rounds(works, num_workers)
    first = next(rounds, [])
    num_workers = max(1, min(num_workers, len(first)))
    settings: dict[str, Any] = {"return_as": "generator", "batch_size": 1, "pre_dispatch": "all", "max_nbytes": None}
    try:
        with (
            _without_joblibs_warning(),
            Parallel(num_workers, initializer=_begin_worker, initargs=(os.getpid(),), **settings) as parallel,
        ):
            for batches in chain([first], rounds):
                with _interrupts_held():
                    results = handed_over(parallel, _pack_batch, [(batch, recipe) for batch in batches], scratch)
                try:
                    for results_of_batch in results:
                        yield from results_of_batch
                finally:
                    deque(results, maxlen=0)  # joblib does not abandon work without tracebacks of its own threads
    except BrokenProcessPool:
        raise InputError(
            f"--workers is {num_workers}, but one of these processes was killed, most likely for want of memory; the same command "
            "with fewer goes on after the last whole shard."
        ) from None


@contextmanager
def _without_joblibs_warning() -> Iterator[None]:
    """joblib puts another worker in the place of one that large images have made large, and need not speak of a leak."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        yield


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Within this, Ctrl-C waits, and processes that start never see it, not even while they start: their parent sees to them.

    Both is needed: to be ignored is inherited through exec, to be blocked keeps the signal for the parent.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int) -> None:
    """Also a worker that joblib starts later, for one that it found too large, leaves Ctrl-C to the parent; all die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)


def _rounds(works: Sequence[Work], num_workers: int) -> Iterator[list[list[Work]]]:
    """As many batches as keep the workers busy, and fewer of large files."""
    batches: list[list[Work]] = []
    num_bytes = 0
    for batch in _batches(works):
        batches.append(batch)
        num_bytes += sum(content_bytes(work.item.place) for work in batch)
        is_large = num_bytes > _ROUND_BYTES * num_workers and len(batches) >= num_workers
        if is_large or len(batches) == _ROUND_BATCHES * num_workers:
            yield batches
            batches, num_bytes = [], 0
    if batches:
        yield batches


def _batches(works: Sequence[Work]) -> Iterator[list[Work]]:
    """Consecutive works, not too many and not too much to read at once."""
    batch: list[Work] = []
    num_bytes = 0
    for work in works:
        if batch and (len(batch) == _BATCH_SAMPLES or num_bytes + content_bytes(work.item.place) > _BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(work)
        num_bytes += content_bytes(work.item.place)
    if batch:
        yield batch


def _pack_batch(works: list[Work], recipe: Recipe) -> list[Packed | str]:
    return [_pack(work, recipe) for work in works]


def _pack(work: Work, recipe: Recipe) -> Packed | str:
    try:
        image = _encoded(work, recipe)
    except UnreadableError as error:
        return str(error)
    blocks = tar_blocks(work.key, {image.extension: image.content} | label_member(work.item.label))
    return Packed(blocks, image.width, image.height, image.channels)


def _encoded(work: Work, recipe: Recipe) -> Encoded:
    place = work.item.place
    if isinstance(place, PixelRange):
        return encode_pixels(read_pixels(place), recipe)
    return encode_file(read_content(place), extension(work.item.name), recipe)
