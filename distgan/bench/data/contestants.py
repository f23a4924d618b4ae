"""Ways to get batches of an image set, each as endless iterators of (images [n, side, side, 3] uint8, labels [n] int64) in random order."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from distgan.batch import BatchLayout
from distgan.bench.data.sets import NUM_CLASSES, ImageSet
from distgan.data.plan import SamplePlan
from distgan.data.reading.reader import Reader
from distgan.data.remote.cache import CacheSettings
from distgan.data.shards.manifest import open_manifest

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
SHUFFLE_BUFFER = 1000  # of webdataset, in samples; its documentation's usual value


@contextmanager
def distgan(images: ImageSet, batch_size: int, num_workers: int) -> Iterator[Batches]:
    """This project's reader, as training has it; with an empty cache where the shards lie elsewhere."""
    with tempfile.TemporaryDirectory(prefix="distgan-bench-cache-") as folder:
        cache = CacheSettings(Path(folder), 10**12) if images.is_remote else None
        manifest = open_manifest(images.shards, cache=cache)
        plan = SamplePlan(np.array([shard.record.num_samples for shard in manifest.shards]), manifest.hash, seed=0, shuffle_window=16)
        layout = BatchLayout(batch_size, 1, 1, 0)
        with closing(Reader(manifest, plan, layout, images.side, 3, num_workers, cache=cache)) as reader:
            yield ((one.images.permute(0, 2, 3, 1), one.labels) for one in reader)


@contextmanager
def webdataset(images: ImageSet, batch_size: int, num_workers: int) -> Iterator[Batches]:
    """The library in its usual pipeline, with this project's decoder."""

    def decode(sample: dict[str, bytes]) -> tuple[np.ndarray, int]:
        return images.pixels(sample[images.extension]), int(sample["cls"])

    yield _pipeline(images, batch_size, num_workers, lambda pipeline: pipeline.map(decode))


@contextmanager
def webdataset_decoding(images: ImageSet, batch_size: int, num_workers: int) -> Iterator[Batches]:
    """The library with its own decoders: Pillow's and NumPy's."""
    yield _pipeline(images, batch_size, num_workers, lambda pipeline: pipeline.decode("rgb8").to_tuple(images.extension, "cls"))


@contextmanager
def files(images: ImageSet, batch_size: int, num_workers: int) -> Iterator[Batches]:
    """A file an image under torch's DataLoader, with this project's decoder."""
    loader = DataLoader(
        _Files(images),
        batch_size=batch_size,
        sampler=_Endless(images.num_images),
        num_workers=num_workers,
        collate_fn=_collated,
        persistent_workers=num_workers > 0,
    )
    yield iter(loader)


CONTESTANTS: dict[str, Callable[..., Any]] = {
    "webdataset": webdataset,
    "webdataset, its own decoder": webdataset_decoding,
    "files": files,
    "distgan": distgan,
}
BASELINE, FILES = "webdataset", "files"


def _pipeline(images: ImageSet, batch_size: int, num_workers: int, decoded: Callable[[Any], Any]) -> Batches:
    from webdataset.compat import WebDataset

    urls = images.shards
    pipeline = WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(SHUFFLE_BUFFER)
    pipeline = decoded(pipeline).batched(batch_size, collation_fn=_collated, partial=False).repeat()
    return iter(DataLoader(pipeline, batch_size=None, num_workers=num_workers))


def _collated(samples: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


class _Files(Dataset):
    def __init__(self, images: ImageSet) -> None:
        self._images, self._paths = images, images.files

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self._images.pixels(self._paths[number].read_bytes()), number % NUM_CLASSES


class _Endless(Sampler):
    """One epoch after the other, each in an order of its own."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng(0)
        return itertools.chain.from_iterable(random.permutation(self._num_images).tolist() for _ in itertools.count())
