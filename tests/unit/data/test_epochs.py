"""The promise of the reader: each epoch is the manifest, once each; and a run may stop at any step and go on on any number of ranks."""

import itertools
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgan.batch import BatchLayout
from distgan.data.plan import SamplePlan
from distgan.data.reading.reader import Reader
from distgan.data.shards.manifest import Manifest, open_manifest
from tests.shards import decode, read_tar, write_set

BATCH_SIZE = 8


class Shards:
    """A set of tiny images, and what is in it as tarfile and Pillow see it."""

    def __init__(self, directory: Path, sizes: list[int]) -> None:
        self.manifest: Manifest = open_manifest(write_set(directory, sizes, side=4))
        self.samples = Counter((decode(one.image).tobytes(), one.label) for shard in self.manifest.shards for one in read_tar(shard.path))
        assert max(self.samples.values()) == 1

    def read(self, world_size: int, num_workers: int, first_batch: int, num_batches: int, window: int = 2, steps: int = 1) -> list[tuple]:
        """The joint sequence of (pixels, label) that the ranks read."""
        sizes = np.array([shard.record.num_samples for shard in self.manifest.shards])
        plan = SamplePlan(sizes, self.manifest.hash, 0, window)
        with ExitStack() as stack:
            ranks = [
                stack.enter_context(
                    closing(Reader(self.manifest, plan, BatchLayout(BATCH_SIZE, steps, world_size, rank), 4, 1, num_workers, first_batch))
                )
                for rank in range(world_size)
            ]
            slices = [next(reader) for _ in range(num_batches * steps) for reader in ranks]  # each has read ahead when it is closed
        return [(image.numpy().tobytes(), int(label)) for one in slices for image, label in zip(one.images, one.labels, strict=True)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """64 samples in uneven shards, one of a single sample."""
    return Shards(tmp_path_factory.mktemp("uneven"), [20, 1, 13, 5, 25])


@pytest.mark.parametrize("num_workers", [0, 2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_each_epoch_is_the_manifest_once(shards: Shards, world_size: int, num_workers: int) -> None:
    found = shards.read(world_size, num_workers, 0, num_batches=16)
    assert [Counter(found[epoch : epoch + 64]) for epoch in (0, 64)] == [shards.samples, shards.samples]
    assert found[:64] != found[64:]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= BATCH_SIZE),
    world_size=st.sampled_from([1, 2, 4, 8]),
    window=st.integers(1, 4),
    first_epoch=st.integers(0, 3),
)
def test_each_epoch_of_any_shards_is_the_manifest_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], world_size: int, window: int, first_epoch: int
) -> None:
    """Epochs that end in the middle of a batch, too."""
    shards = Shards(tmp_path_factory.mktemp("any"), sizes)
    num_samples = sum(sizes)
    first_batch = first_epoch * num_samples // BATCH_SIZE
    skipped = first_epoch * num_samples - first_batch * BATCH_SIZE
    found = shards.read(world_size, 0, first_batch, num_batches=-(-(2 * num_samples + skipped) // BATCH_SIZE), window=window)[skipped:]
    assert Counter(found[:num_samples]) == Counter(found[num_samples : 2 * num_samples]) == shards.samples


@pytest.mark.parametrize("num_workers", [0, 2])
def test_four_two_eight_ranks_read_what_one_reads(shards: Shards, num_workers: int) -> None:
    """A run that is stopped twice, with batches read ahead each time."""
    whole = shards.read(1, 0, 0, num_batches=12)
    in_parts = [
        sample
        for world_size, first, last in ((4, 0, 3), (2, 3, 8), (8, 8, 12))
        for sample in shards.read(world_size, num_workers, first, last - first)
    ]
    assert in_parts == whole


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_run_goes_on_anywhere_on_any_number_of_ranks(shards: Shards, data: st.DataObject) -> None:
    """Any number of sittings, each on any number of ranks and accumulation steps."""
    ends = sorted(data.draw(st.sets(st.integers(1, 30), min_size=1, max_size=4)))
    layouts = [data.draw(st.sampled_from([(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 4), (4, 2)])) for _ in ends]
    found = []
    for (world_size, steps), (first, last) in zip(layouts, itertools.pairwise([0, *ends]), strict=True):
        found += shards.read(world_size, 0, first, last - first, steps=steps)
    assert found == shards.read(1, 0, 0, num_batches=ends[-1])
