"""The reader: the plan's samples, decoded, in order, on any number of ranks; what is damaged has a name, or is replaced and counted."""

import contextlib
import gc
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan.batch import BatchLayout
from distgan.data.decoding import UnreadableImageError
from distgan.data.plan import SamplePlan
from distgan.data.reading import reader, samples
from distgan.data.reading.reader import Reader, RealSlice
from distgan.data.shards.damage import DamagedSampleError, DamagePolicy
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.urls import resolve
from tests.shards import decode, encode, flip_bit, member_offsets, noise, read_tar, sample_members, write_set, write_tar

SIZES = [7, 1, 12, 3, 9]
ONE_RANK = BatchLayout(batch_size=8, accumulation_steps=1, world_size=1, rank=0)
Start = Callable[..., Reader]


def open_(directory: Path) -> Manifest:
    return open_manifest(resolve(str(directory)))


def plan_of(manifest: Manifest, seed: int = 0) -> SamplePlan:
    return SamplePlan(np.array([shard.record.num_samples for shard in manifest.shards]), manifest.hash, seed, shuffle_window=2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """32 grey images of 8x8 pixels with labels, in five shards; tests only read it."""
    directory = tmp_path_factory.mktemp("shards")
    write_set(directory, SIZES)
    return open_(directory)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts readers, and closes them at the end."""
    readers = []

    def start_reader(
        manifest: Manifest, layout: BatchLayout = ONE_RANK, channels: int = 1, num_workers: int = 0, first_batch: int = 0
    ) -> Reader:
        readers.append(Reader(manifest, plan_of(manifest), layout, 8, channels, num_workers, first_batch))
        return readers[-1]

    yield start_reader
    for each in readers:
        each.close()


def take(slices: Reader, count: int) -> list[RealSlice]:
    return list(itertools.islice(slices, count))


def joined(slices: list[RealSlice]) -> tuple[torch.Tensor, list[int], list[int]]:
    """Images, labels and numbers of slices one after the other."""
    return (
        torch.cat([part.images for part in slices]),
        torch.cat([part.labels for part in slices]).tolist(),
        np.concatenate([part.numbers for part in slices]).tolist(),
    )


def same(some: list[RealSlice], others: list[RealSlice]) -> bool:
    (images, *rest), (other_images, *other_rest) = joined(some), joined(others)
    return torch.equal(images, other_images) and rest == other_rest


def test_samples_come_in_the_plans_order(manifest: Manifest, start: Start) -> None:
    """Three epochs, in batches that straddle them; compared with tarfile and Pillow."""
    slices = take(start(manifest, BatchLayout(10, 1, 1, 0)), 10)
    images, labels, numbers = joined(slices)
    assert (images.dtype, images.shape) == (torch.uint8, (100, 1, 8, 8))
    assert slices[0].labels.dtype == torch.int64
    assert numbers == list(range(100))
    samples = [read_tar(shard.path) for shard in manifest.shards]
    shards, places = plan_of(manifest).locate(np.arange(100))
    expected = [samples[shard][place] for shard, place in zip(shards, places, strict=True)]
    assert labels == [sample.label for sample in expected]
    assert np.array_equal(images[:, 0].numpy(), np.stack([decode(sample.image) for sample in expected]))
    assert len({images[position].numpy().tobytes() for position in range(32)}) == 32


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1)])
def test_ranks_together_read_what_one_reads(manifest: Manifest, start: Start, world_size: int, accumulation_steps: int) -> None:
    num_batches = 5
    alone = take(start(manifest, BatchLayout(8, 1, 1, 0)), num_batches)
    of_ranks = [
        take(start(manifest, BatchLayout(8, accumulation_steps, world_size, rank)), num_batches * accumulation_steps)
        for rank in range(world_size)
    ]
    assert same([of_ranks[rank][step] for step in range(num_batches * accumulation_steps) for rank in range(world_size)], alone)


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_the_number_of_workers_changes_nothing(manifest: Manifest, start: Start, num_workers: int) -> None:
    assert same(take(start(manifest, num_workers=num_workers), 12), take(start(manifest), 12))


def test_slices_are_located_many_at_a_time(manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = BatchLayout(8, 2, 2, 1)
    expected = take(start(manifest, layout, first_batch=5), 20)
    monkeypatch.setattr(reader, "LOCATED_AT_ONCE", 6)  # three slices of two
    assert same(take(start(manifest, layout, first_batch=5), 20), expected)


@pytest.mark.parametrize("first_batch", [1, 3, 4, 9, 1000])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_batch_number_is_all_the_state(manifest: Manifest, start: Start, first_batch: int, accumulation_steps: int) -> None:
    """Within an epoch, at its end, and epochs on."""
    layout = BatchLayout(8, accumulation_steps, 2, 1)
    resumed = take(start(manifest, layout, first_batch=first_batch), 4)
    assert resumed[0].numbers[0] == first_batch * 8 + 8 // accumulation_steps // 2
    if first_batch < 10:
        assert same(resumed, take(start(manifest, layout), first_batch * accumulation_steps + 4)[-4:])


def test_resumed_on_another_number_of_ranks(manifest: Manifest, start: Start) -> None:
    whole = take(start(manifest), 6)
    two_ranks = [take(start(manifest, BatchLayout(8, 1, 2, rank), first_batch=3), 3) for rank in range(2)]
    assert same(whole[3:], [two_ranks[rank][step] for step in range(3) for rank in range(2)])


def test_samples_without_a_label(tmp_path: Path, start: Start) -> None:
    write_tar(tmp_path / "a.tar", [("a.png", encode(noise(0))), ("b.png", encode(noise(1))), ("b.cls", b"3")])
    assert sorted(take(start(open_(tmp_path), BatchLayout(2, 1, 1, 0)), 1)[0].labels.tolist()) == [NO_LABEL, 3]


def test_grey_images_of_a_set_in_colour(tmp_path: Path, start: Start) -> None:
    write_tar(tmp_path / "a.tar", [("a.png", encode(noise(0))), ("b.png", encode(noise(1, channels=3)))])
    opened = open_(tmp_path)
    assert opened.channels == 3
    images = take(start(opened, BatchLayout(2, 1, 1, 0), channels=3), 1)[0].images.numpy()
    found = {image.tobytes() for image in images}
    assert found == {np.stack([noise(0)] * 3).tobytes(), noise(1, channels=3).transpose(2, 0, 1).tobytes()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards that a test may damage."""
    write_set(tmp_path / "shards", [6, 6])
    return (tmp_path / "shards").resolve()


def test_a_flipped_byte_is_named(shards: Path, start: Start) -> None:
    """In an image without a checksum of its own: only the index tells."""
    write_tar(shards / "0001.tar", [(f"{number:06d}.bmp", encode(noise(number), "bmp")) for number in range(6, 12)])
    opened = open_(shards)
    flip_bit(shards / "0001.tar", member_offsets(shards / "0001.tar")["000009.bmp"][1] + 1100)
    slices = start(opened, BatchLayout(12, 1, 1, 0))
    with pytest.raises(DamagedSampleError, match=r"The sample '000009' of .*shards/0001\.tar"):
        next(slices)


def test_a_shard_cut_while_it_is_read_is_named(shards: Path, start: Start) -> None:
    """An exception, where a mapping of the file would end the process with SIGBUS."""
    opened = open_(shards)
    slices = start(opened, BatchLayout(4, 1, 1, 0), num_workers=1)
    assert len(next(slices).images) == 4
    os.truncate(shards / "0000.tar", 100)
    with pytest.raises(DamagedSampleError, match=r"The sample '00000\d' of .*shards/0000\.tar"):
        take(slices, 20)


def test_a_shard_that_is_gone_is_named(shards: Path, start: Start) -> None:
    opened = open_(shards)
    (shards / "0001.tar").unlink()
    with pytest.raises((DamagedSampleError, FileNotFoundError), match=r"0001\.tar"):
        take(start(opened, BatchLayout(12, 1, 1, 0)), 1)


@pytest.mark.parametrize("numbers", [range(20, 26), range(20, 22)], ids=["as many samples", "fewer samples"])
def test_a_shard_replaced_and_indexed_by_another_run_is_named(shards: Path, start: Start, numbers: range) -> None:
    """The run that has the old manifest does not go on with other samples in silence."""
    opened = open_(shards)
    write_tar(shards / "0001.tar", sample_members(numbers))
    assert open_(shards).hash != opened.hash
    with pytest.raises(DamagedSampleError, match=r"0001\.tar"):
        take(start(opened, BatchLayout(12, 1, 1, 0)), 1)


def test_a_damaged_index_is_named(shards: Path, start: Start) -> None:
    """By its own name: to start again helps only after it is removed."""
    open_(shards)
    flip_bit(shards / "0001.tar.index", 140)
    with pytest.raises(DamagedSampleError, match=r"0001\.tar\.index"):
        take(start(open_(shards), BatchLayout(12, 1, 1, 0)), 1)
    (shards / "0001.tar.index").unlink()
    assert len(take(start(open_(shards), BatchLayout(12, 1, 1, 0)), 1)) == 1


def test_an_image_that_does_not_decode_is_named(shards: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is right, so it was damaged before it was packed."""
    monkeypatch.setattr(samples, "decode_into", _failing(samples.decode_into, encode(noise(9))))
    with pytest.raises(DamagedSampleError, match=r"The sample '000009' of .*shards/0001\.tar .*cannot be decoded \(broken data stream\)"):
        take(start(open_(shards), BatchLayout(12, 1, 1, 0)), 1)


def _failing(decode_into: Callable[..., None], broken: bytes) -> Callable[..., None]:
    def decode_but_one(out: np.ndarray, payload: bytes, *facts: int) -> None:
        if payload == broken:
            raise UnreadableImageError("broken data stream")
        decode_into(out, payload, *facts)

    return decode_but_one


SKIP = DamagePolicy(skip=True, max_skipped_share=0.5)


@pytest.fixture
def damaged(shards: Path) -> Manifest:
    """Two shards of six uncompressed images; of 000002 and 000009, a bit is flipped after indexing."""
    for shard in range(2):
        write_tar(shards / f"{shard:04d}.tar", [(f"{n:06d}.bmp", encode(noise(n), "bmp")) for n in range(6 * shard, 6 * shard + 6)])
    opened = open_(shards)
    for shard, name in ((0, "000002.bmp"), (1, "000009.bmp")):
        flip_bit(shards / f"{shard:04d}.tar", member_offsets(shards / f"{shard:04d}.tar")[name][1] + 1100)
    return opened


def skipping(manifest: Manifest, layout: BatchLayout, num_workers: int = 0, first_batch: int = 0, policy: DamagePolicy = SKIP) -> Reader:
    return Reader(manifest, plan_of(manifest), layout, 8, 1, num_workers, first_batch, policy=policy)


def numbers_of(images: torch.Tensor) -> list[int]:
    """Which `noise` each image [n, 1, 8, 8] is."""
    known = {noise(number).tobytes(): number for number in range(12)}
    return [known[image.numpy().tobytes()] for image in images]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_samples_are_replaced_by_others_and_counted(damaged: Manifest, num_workers: int) -> None:
    with contextlib.closing(skipping(damaged, BatchLayout(6, 1, 1, 0), num_workers)) as slices:
        parts = take(slices, 6)  # three epochs
        statistics, skips = slices.take_statistics(), slices.take_skips()
    found = numbers_of(joined(parts)[0])
    shards, places = plan_of(damaged).locate(np.arange(36))
    expected = (6 * shards + places).tolist()
    assert [a for a, b in zip(found, expected, strict=True) if b not in (2, 9)] == [b for b in expected if b not in (2, 9)]
    assert not {2, 9} & set(found)
    assert statistics.skipped["checksum"] >= 6  # each of the two once an epoch; replacements may be damaged, too
    assert sorted(skip.key for skip in skips) == ["000002", "000009"]
    assert all("0000.tar" in skip.shard or "0001.tar" in skip.shard for skip in skips)
    assert slices.take_skips() == []


def test_what_is_replaced_by_what_depends_on_nothing_but_its_number(damaged: Manifest) -> None:
    """Not on ranks, workers, accumulation or where a run was resumed."""
    alone = joined(take(skipping(damaged, BatchLayout(6, 1, 1, 0)), 6))[0]
    of_ranks = [take(skipping(damaged, BatchLayout(6, 1, 2, rank)), 6) for rank in range(2)]
    assert torch.equal(joined([of_ranks[rank][step] for step in range(6) for rank in range(2)])[0], alone)
    assert torch.equal(joined(take(skipping(damaged, BatchLayout(6, 3, 1, 0), first_batch=2), 12))[0], alone[12:])


def test_more_damage_than_allowed_ends_it(damaged: Manifest) -> None:
    policy = DamagePolicy(skip=True, max_skipped_share=0.1)  # one of twelve
    with pytest.raises(DamagedSampleError, match=r"2 of 12 samples .*, 2 of them since .* data\.max_skipped_share 0\.1 allows") as error:
        take(skipping(damaged, BatchLayout(6, 1, 1, 0), policy=policy), 6)
    assert "The last one: The sample '00000" in str(error.value)


def test_a_shard_that_is_gone_is_skipped_sample_by_sample(damaged: Manifest) -> None:
    damaged.shards[1].path.unlink()
    slices = skipping(damaged, BatchLayout(6, 1, 1, 0), policy=DamagePolicy(skip=True, max_skipped_share=0.9))
    assert set(numbers_of(joined(take(slices, 6))[0])) == {0, 1, 3, 4, 5}
    assert slices.take_statistics().skipped["shard"] >= 18
    assert len(slices.take_skips()) == 7  # six without a name, and 000002


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_without_the_label_they_need_are_replaced(shards: Path, num_workers: int) -> None:
    """Also where one of them would stand in for another, and in rows behind the first."""
    members = [member for member in sample_members(range(6, 12)) if member[0] not in ("000007.cls", "000010.cls")]
    write_tar(shards / "0001.tar", [(name, b"1000000" if name == "000008.cls" else content) for name, content in members])
    opened = open_(shards)
    reader = Reader(opened, plan_of(opened), BatchLayout(6, 1, 1, 0), 8, 1, num_workers, policy=DamagePolicy(True, 0.25), num_classes=10)
    with contextlib.closing(reader) as slices:
        images, labels, _ = joined(take(slices, 12))
        statistics, skips = slices.take_statistics(), slices.take_skips()
    found = numbers_of(images)
    assert labels == [number % 10 for number in found]
    assert set(found) == {*range(7), 9, 11}
    assert statistics.skipped["label"] >= 18
    reasons = {skip.key: skip.reason for skip in skips}
    assert sorted(reasons) == ["000007", "000008", "000010"]
    assert sorted(json.dumps(skip.place) for skip in skips) == ["1", "2", "4"], "ranks tell each other"
    assert "has no label" in reasons["000007"]
    assert "has the label 1000000, but there are 10 classes" in reasons["000008"]


def test_all_samples_damaged_ends_it(damaged: Manifest) -> None:
    for shard in damaged.shards:
        os.truncate(shard.path, 100)
    with pytest.raises(DamagedSampleError, match="16 samples in a row are damaged"):
        take(skipping(damaged, BatchLayout(6, 1, 1, 0), policy=DamagePolicy(skip=True, max_skipped_share=1.0)), 1)


def descriptors(directory: Path) -> int:
    """How many of this process's descriptors are files of the directory."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sum(link.startswith(f"{directory}/") for link in links)


def test_many_shards_need_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard holds two: of itself and of its index."""
    monkeypatch.setattr(samples, "OPEN_SHARDS", 4)
    directory = (tmp_path / "shards").resolve()
    write_set(directory, [2] * 30)
    opened = open_(directory)
    assert descriptors(directory) == 0
    slices = Reader(opened, plan_of(opened), BatchLayout(6, 1, 1, 0), 8, 1, num_workers=0)
    most = 0
    for part in itertools.islice(slices, 30):
        assert len(part.images) == 6
        most = max(most, descriptors(directory))
    assert most == 2 * 4  # of the 60 there could be
    del slices
    gc.collect()
    assert descriptors(directory) == 0
