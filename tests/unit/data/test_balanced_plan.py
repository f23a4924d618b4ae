"""The balanced plan: every class equally often, each of its samples once a round, in an order that only (content, seed, number) decides."""

import itertools
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from distgan.batch import BatchLayout
from distgan.build import check
from distgan.build_data import build_reader
from distgan.cli import validate
from distgan.data.balanced_plan import BalancedPlan
from distgan.data.reading.reader import Reader, RealSlice
from distgan.data.shards.damage import DamagePolicy
from distgan.data.shards.manifest import open_manifest
from distgan.distributed import World
from tests import training
from tests.shards import decode, encode, flip_bit, member_offsets, noise, read_tar, sample_members, write_tar

HASH = "ab" * 32
OTHER_HASH = "cd" * 32

Shards = list[np.ndarray]  # the labels of each

labels = st.sampled_from([0, 1, 2, 3, 5, 70, 2**31 - 1])
shard_sets: st.SearchStrategy[Shards] = (
    st.lists(st.lists(labels, max_size=15), min_size=1, max_size=8)
    .filter(any)
    .map(lambda shards: [np.array(shard, dtype=np.int32) for shard in shards])
)
seeds = st.integers(0, 2**63 - 1)
far = st.one_of(st.integers(0, 300), st.integers(10**9, 10**12))


def shards_of(*counts: int, num_shards: int = 3) -> Shards:
    """`counts[c]` samples of class c, dealt over the shards without any order."""
    every = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.array_split(np.random.default_rng(0).permutation(every), num_shards)


def located(plan: BalancedPlan, numbers: np.ndarray) -> list[tuple[int, int]]:
    shards, places = plan.locate(numbers)
    return list(zip(shards.tolist(), places.tolist(), strict=True))


def classes_of(shards: Shards, samples: list[tuple[int, int]]) -> list[int]:
    return [int(shards[shard][place]) for shard, place in samples]


def sizes_of(shards: Shards) -> Counter[int]:
    return Counter(np.concatenate(shards).tolist())


@settings(max_examples=150, deadline=None)
@given(shard_sets, seeds, far)
def test_each_block_holds_each_class_once(shards: Shards, seed: int, block: int) -> None:
    plan = BalancedPlan(shards, HASH, seed)
    classes = sorted(sizes_of(shards))
    first = block * len(classes)
    for start in (first, first + len(classes)):
        assert sorted(classes_of(shards, located(plan, np.arange(start, start + len(classes))))) == classes


@settings(max_examples=150, deadline=None)
@given(shard_sets, seeds, far, st.integers(1, 200))
def test_in_any_window_no_class_is_two_draws_ahead_of_its_share(shards: Shards, seed: int, first: int, length: int) -> None:
    """A window holds whole blocks and a part of one at each end."""
    num_classes = len(sizes_of(shards))
    counts = Counter(classes_of(shards, located(BalancedPlan(shards, HASH, seed), np.arange(first, first + length))))
    whole_blocks = max(0, (first + length) // num_classes - -(-first // num_classes))
    for label in sizes_of(shards):
        assert whole_blocks <= counts[label] <= whole_blocks + 2


@settings(max_examples=150, deadline=None)
@given(shard_sets, seeds, st.one_of(st.integers(0, 3), st.integers(10**6, 10**9)))
def test_each_round_of_a_class_holds_its_samples_once(shards: Shards, seed: int, number: int) -> None:
    plan = BalancedPlan(shards, HASH, seed)
    sizes = sizes_of(shards)
    for label, size in sizes.items():
        blocks = number * size + np.arange(size)  # a round of this class: a draw of it in each of these blocks
        samples = located(plan, (blocks[:, None] * len(sizes) + np.arange(len(sizes))).ravel())
        own = [sample for sample, of in zip(samples, classes_of(shards, samples), strict=True) if of == label]
        expected = [(shard, place) for shard, of in enumerate(shards) for place in np.flatnonzero(of == label).tolist()]
        assert sorted(own) == expected


@settings(max_examples=60, deadline=None)
@given(shard_sets, seeds, st.data())
def test_a_sample_depends_on_its_number_alone(shards: Shards, seed: int, data: st.DataObject) -> None:
    """However the numbers are asked for: all at once, from the middle, backwards, one by one."""
    plan = BalancedPlan(shards, HASH, seed)
    numbers = np.arange(3 * plan.num_samples)
    whole = located(plan, numbers)
    start = data.draw(st.integers(0, len(numbers)))
    assert located(plan, numbers[start:]) == whole[start:]
    assert located(plan, numbers[::-1]) == whole[::-1]
    one = data.draw(st.integers(0, len(numbers) - 1))
    assert located(BalancedPlan(shards, HASH, seed), numbers[one : one + 1]) == whole[one : one + 1]


@settings(max_examples=40, deadline=None)
@given(shard_sets, st.sampled_from([8, 16, 24]), far)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_out_each_batch_in_order(world_size: int, accumulation_steps: int, shards: Shards, size: int, batch: int) -> None:
    plan = BalancedPlan(shards, HASH, 0)
    batch_size = size * accumulation_steps
    first = batch * batch_size
    layouts = [BatchLayout(batch_size, accumulation_steps, world_size, rank) for rank in range(world_size)]
    slices = [layout.positions(micro_batch) for micro_batch in range(accumulation_steps) for layout in layouts]
    joined = [sample for part in slices for sample in located(plan, np.arange(first + part.start, first + part.stop))]
    assert joined == located(plan, np.arange(first, first + batch_size))


@settings(max_examples=100, deadline=None)
@given(shard_sets, st.integers(0, 1000))
def test_seed_and_content_change_the_order(shards: Shards, seed: int) -> None:
    sizes = sizes_of(shards)
    assume(max(sizes.values()) >= 2)
    numbers = np.arange(100 * len(sizes))  # at least 50 rounds of two orders each
    base = located(BalancedPlan(shards, HASH, seed), numbers)
    assert located(BalancedPlan(shards, HASH, seed), numbers) == base
    assert located(BalancedPlan(shards, HASH, seed + 1), numbers) != base
    assert located(BalancedPlan(shards, OTHER_HASH, seed), numbers) != base


@settings(max_examples=60, deadline=None)
@given(shard_sets, seeds, far, st.integers(1, 20))
def test_what_stands_in_for_a_sample_is_of_its_class(shards: Shards, seed: int, first: int, epochs: int) -> None:
    """And, where there is one class, what comes at its place of a later epoch."""
    plan = BalancedPlan(shards, HASH, seed)
    numbers = np.arange(first, first + 50)
    samples, later = located(plan, numbers), list(zip(*(found.tolist() for found in plan.locate(numbers, epochs)), strict=True))
    assert classes_of(shards, later) == classes_of(shards, samples)
    if len(sizes_of(shards)) == 1:
        assert later == located(plan, numbers + epochs * plan.num_samples)


def test_one_class_is_drawn_in_rounds() -> None:
    plan = BalancedPlan([np.full(5, 7), np.full(3, 7)], HASH, 0)
    rounds = [located(plan, np.arange(start, start + 8)) for start in range(0, 80, 8)]
    assert all(len(set(one)) == 8 for one in rounds)
    assert len({tuple(one) for one in rounds}) == 10


@pytest.mark.parametrize("shards", [[[4]], [[], [4]], [[], [4], []]], ids=str)
def test_one_sample_is_found_for_ever(shards: list[list[int]]) -> None:
    plan = BalancedPlan([np.array(shard, dtype=np.int32) for shard in shards], HASH, 0)
    assert set(located(plan, np.arange(20))) == {(shards.index([4]), 0)}


def test_the_highest_label_costs_nothing() -> None:
    """A table as long as it would take 16 GB."""
    tracemalloc.start()
    try:
        plan = BalancedPlan([np.array([2**31 - 1, 0], dtype=np.int32)], HASH, 0)
        assert set(located(plan, np.arange(20))) == {(0, 0), (0, 1)}
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1e6


def test_the_scheme_has_not_changed() -> None:
    """A run that resumes relies on it: with another order its samples would repeat and lack in silence."""
    plan = BalancedPlan([np.array([0, 9, 0]), np.array([0, 3]), np.array([3, 0, 9])], HASH, 7)
    assert located(plan, np.arange(12)) == [
        *[(2, 0), (2, 2), (0, 2), (0, 1), (1, 0), (1, 1)],
        *[(0, 0), (2, 2), (2, 0), (0, 1), (2, 1), (1, 1)],
    ]
    large = BalancedPlan([np.arange(1000) % 100 for _ in range(1000)], HASH, 7)
    assert located(large, np.array([0, 1, 999_999, 1_000_000, 10**12])) == [(247, 227), (124, 767), (15, 929), (674, 848), (555, 67)]


def equally_likely(rows: np.ndarray, num_values: int) -> bool:
    """Whether `rows` [n, k] take `num_values` different values, each as often as any other."""
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return len(counts) == num_values and bool(stats.chisquare(counts).pvalue > 1e-4)


def test_orders_and_pairs_are_equally_likely() -> None:
    sizes, num_blocks = [3, 5, 1], 30_000
    shards = shards_of(*sizes)
    shard, place = BalancedPlan(shards, HASH, 1).locate(np.arange(3 * num_blocks))
    samples = (np.cumsum([0, *map(len, shards)])[shard] + place).reshape(num_blocks, 3)
    classes = np.concatenate(shards)[samples]
    assert equally_likely(classes, 6)
    assert equally_likely(np.hstack([classes[:-1], classes[1:]]), 36), "a block's order says nothing of the next one's"
    of_class = np.take_along_axis(samples, classes.argsort(axis=1), axis=1)  # [num_blocks, 3]
    assert equally_likely(of_class[:, :2], 3 * 5), "a class's sample says nothing of another class's beside it"
    assert equally_likely(np.hstack([classes, of_class[:, :1]]), 6 * 3), "nor does the order of classes"
    threes, fives = of_class[:, 0].reshape(-1, 3), of_class[:, 1].reshape(-1, 5)
    assert equally_likely(threes, 6)
    assert equally_likely(fives, 120)
    assert equally_likely(np.hstack([threes[:-1], threes[1:]]), 36), "nor a round of the next one"
    assert equally_likely(np.stack([fives[:-1, -1], fives[1:, 0]], axis=1), 25)


def test_classes_of_one_size_have_orders_of_their_own() -> None:
    shards, places = BalancedPlan([np.full(3, 0), np.full(3, 1)], HASH, 1).locate(np.arange(2 * 3 * 10_000))
    rounds = [places[shards == label].reshape(-1, 3) for label in range(2)]
    assert equally_likely(np.hstack(rounds), 36)


def test_a_large_class_comes_in_no_order() -> None:
    """Two thirds of a round, far into a run."""
    plan = BalancedPlan([np.zeros(60_000, dtype=np.int32), np.ones(10, dtype=np.int32)], HASH, 2)
    first_block = 10**10 * 60_000
    shards, places = plan.locate(2 * first_block + np.arange(2 * 40_000))
    large = places[shards == 0]
    assert len(set(large.tolist())) == 40_000
    assert stats.kstest(large / 60_000, "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(large[1:], large[:-1])[0]) < 4 / 200


def test_seeking_needs_four_bytes_a_sample() -> None:
    """10^6 samples of 1,000 classes, 10^15 samples on."""
    shards = [np.arange(start, start + 1000, dtype=np.int32) % 1000 for start in range(0, 10**6, 1000)]
    tracemalloc.start()
    try:
        plan = BalancedPlan(shards, HASH, 0)
        kept_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        samples = located(plan, 10**15 + np.arange(2000))
        seek_bytes = tracemalloc.get_traced_memory()[1] - kept_bytes
    finally:
        tracemalloc.stop()
    assert kept_bytes < 4.2e6
    assert seek_bytes < 20e6
    assert Counter(classes_of(shards, samples)) == dict.fromkeys(range(1000), 2)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples in four shards, 5 of class 3 and 95 of class 1; tests only read it."""
    directory = tmp_path_factory.mktemp("uneven")
    for shard in range(4):
        numbers = range(25 * shard, 25 * shard + 25)
        names = [f"{number:06d}" for number in numbers]
        images = [(f"{name}.png", encode(noise(number))) for name, number in zip(names, numbers, strict=True)]
        labels = [(f"{name}.cls", b"3" if number % 20 == 7 else b"1") for name, number in zip(names, numbers, strict=True)]
        write_tar(directory / f"{shard}.tar", sorted(images + labels))
    return directory


def slices_of(url: Path, world_size: int, rank: int, first_batch: int, count: int, balance_classes: bool = True) -> list[RealSlice]:
    """What training's own reader gives to this rank; micro-batches of a half, batches of 8."""
    config = validate(
        training.settings(
            url / "run",
            train={"batch_size": 8},
            data={"url": str(url), "balance_classes": balance_classes},
            engine={"accumulation_steps": 2},
        )
    )
    world = World(rank=rank, size=world_size, local_rank=rank, device=torch.device("cpu"))
    reader = build_reader(config, check(config, world_size), BatchLayout(8, 2, world_size, rank), first_batch, world)
    slices = list(itertools.islice(reader, 2 * count))
    reader.close()
    return slices


def test_every_batch_of_an_uneven_set_is_even(uneven: Path) -> None:
    """Labels and images as tarfile finds them."""
    label_of = {decode(sample.image).tobytes(): sample.label for shard in range(4) for sample in read_tar(uneven / f"{shard}.tar")}
    slices = slices_of(uneven, 1, 0, 0, 50)
    seen: Counter[bytes] = Counter()
    for part in slices:
        assert sorted(part.labels.tolist()) == [1, 1, 3, 3]
        images = [image.numpy().tobytes() for image in part.images]
        assert [label_of[image] for image in images] == part.labels.tolist()
        seen.update(images)
    assert {count for image, count in seen.items() if label_of[image] == 3} == {40}  # 200 draws in 40 rounds of 5
    of_the_frequent = [seen[image] for image, label in label_of.items() if label == 1]
    assert set(of_the_frequent) == {2, 3}  # 200 draws in rounds of 95
    rare = np.concatenate([part.labels for part in slices_of(uneven, 1, 0, 0, 50, balance_classes=False)]) == 3
    assert rare.sum() == 20


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("first_batch", [0, 3, 11])
def test_ranks_and_resumed_runs_read_the_same(uneven: Path, world_size: int, first_batch: int) -> None:
    def joined(slices: list[RealSlice]) -> tuple[bytes, list[int], list[int]]:
        return (
            torch.cat([part.images for part in slices]).numpy().tobytes(),
            torch.cat([part.labels for part in slices]).tolist(),
            np.concatenate([part.numbers for part in slices]).tolist(),
        )

    of_ranks = [slices_of(uneven, world_size, rank, first_batch, 3) for rank in range(world_size)]
    together = [of_ranks[rank][part] for part in range(6) for rank in range(world_size)]
    assert joined(together) == joined(slices_of(uneven, 1, 0, 0, first_batch + 3)[2 * first_batch :])


def test_a_damaged_sample_is_replaced_by_one_of_its_class(tmp_path: Path) -> None:
    labels = [number % 2 for number in range(12)]
    shard = write_tar(tmp_path / "0.tar", sample_members(range(12), num_classes=2))
    manifest = open_manifest([shard])
    for damaged in (2, 5):
        flip_bit(shard, member_offsets(shard)[f"{damaged:06d}.png"][1] + 60)
    plan = BalancedPlan([np.array(labels)], manifest.hash, 0)
    policy = DamagePolicy(skip=True, max_skipped_share=0.5)
    reader = Reader(manifest, plan, BatchLayout(8, 1, 1, 0), 8, 1, num_workers=0, policy=policy)
    slices = list(itertools.islice(reader, 30))
    assert all(sorted(part.labels.tolist()) == [0] * 4 + [1] * 4 for part in slices)
    assert len({image.numpy().tobytes() for part in slices for image in part.images}) == 10
    assert len(reader.take_skips()) == 2


@pytest.mark.parametrize("conditional", [False, True])
def test_training_goes_by_it(uneven: Path, tmp_path: Path, conditional: bool) -> None:
    values = training.settings(
        tmp_path,
        train={"batch_size": 8},
        data={"url": str(uneven), "balance_classes": True},
        model=training.SMALL_MODELS["mlp"] | {"conditional": conditional},
    )
    with training.trainer_of(values) as trainer:
        trainer.iterate()
        labels = trainer.feed.for_discriminator(1)[0].real_labels
        assert (None if labels is None else sorted(labels.tolist())) == ([1] * 4 + [3] * 4 if conditional else None)
