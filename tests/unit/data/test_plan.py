"""The sample plan: every sample once an epoch, in an order that only (content, seed, number) decides."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from distgan.batch import BatchLayout
from distgan.data.plan import SamplePlan, permute

HASH = "ab" * 32
OTHER_HASH = "cd" * 32

shard_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any).map(np.array)
plans = st.builds(SamplePlan, shard_sizes, st.sampled_from([HASH, OTHER_HASH]), st.integers(0, 2**63), st.integers(1, 20))


def located(plan: SamplePlan, numbers: np.ndarray) -> list[tuple[int, int]]:
    shards, places = plan.locate(numbers)
    return list(zip(shards.tolist(), places.tolist(), strict=True))


def order(sizes: list[int], manifest_hash: str = HASH, seed: int = 0, window: int = 4, epoch: int = 0) -> list[tuple[int, int]]:
    """One epoch's samples."""
    plan = SamplePlan(np.array(sizes), manifest_hash, seed, window)
    return located(plan, epoch * plan.num_samples + np.arange(plan.num_samples))


def touched(plan: SamplePlan, first: int, count: int) -> int:
    """How many shards `count` consecutive numbers read from."""
    return len(set(plan.locate(np.arange(first, first + count))[0].tolist()))


@settings(max_examples=150, deadline=None)
@given(shard_sizes, st.integers(0, 2**63), st.integers(1, 20), st.one_of(st.integers(0, 5), st.integers(10**6, 10**9)))
def test_each_epoch_holds_every_sample_once(sizes: np.ndarray, seed: int, window: int, epoch: int) -> None:
    plan = SamplePlan(sizes, HASH, seed, window)
    every_sample = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    assert plan.num_samples == len(every_sample)
    assert sorted(located(plan, epoch * plan.num_samples + np.arange(plan.num_samples))) == every_sample


@pytest.mark.parametrize("sizes", [[1], [0, 1], [1, 0], [0, 0, 1, 0, 0]], ids=str)
def test_one_sample_is_found_for_ever(sizes: list[int]) -> None:
    assert set(located(SamplePlan(np.array(sizes), HASH, 0, 1), np.arange(20))) == {(sizes.index(1), 0)}


@settings(max_examples=60, deadline=None)
@given(plans, st.data())
def test_a_sample_depends_on_its_number_alone(plan: SamplePlan, data: st.DataObject) -> None:
    """However the numbers are asked for: all at once, from the middle, backwards, one by one."""
    numbers = np.arange(3 * plan.num_samples)
    whole = located(plan, numbers)
    start = data.draw(st.integers(0, len(numbers)))
    assert located(plan, numbers[start:]) == whole[start:]
    assert located(plan, numbers[::-1]) == whole[::-1]
    one = data.draw(st.integers(0, len(numbers) - 1))
    assert located(plan, numbers[one : one + 1]) == whole[one : one + 1]


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(0, 10**9), st.integers(0, 20))
def test_epochs_later_is_as_many_samples_on(plan: SamplePlan, first: int, epochs: int) -> None:
    numbers = np.arange(first, first + 20)
    shards, places = plan.locate(numbers, epochs)
    assert list(zip(shards.tolist(), places.tolist(), strict=True)) == located(plan, numbers + epochs * plan.num_samples)


@settings(max_examples=40, deadline=None)
@given(plans, st.sampled_from([8, 16, 24]), st.integers(0, 50))
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_out_each_batch_in_order(world_size: int, accumulation_steps: int, plan: SamplePlan, size: int, batch: int) -> None:
    batch_size = size * accumulation_steps
    first = batch * batch_size
    layouts = [BatchLayout(batch_size, accumulation_steps, world_size, rank) for rank in range(world_size)]
    slices = [layout.positions(micro_batch) for micro_batch in range(accumulation_steps) for layout in layouts]
    joined = [sample for part in slices for sample in located(plan, np.arange(first + part.start, first + part.stop))]
    assert joined == located(plan, np.arange(first, first + batch_size))


@settings(max_examples=100, deadline=None)
@given(shard_sizes, st.integers(0, 1000), st.integers(1, 20), st.integers(0, 1000))
def test_seed_content_and_epoch_change_the_order(sizes: np.ndarray, seed: int, window: int, epoch: int) -> None:
    assume(sizes.sum() >= 50)  # 1 in 50! to coincide
    base = order(sizes.tolist(), HASH, seed, window, epoch)
    assert order(sizes.tolist(), HASH, seed, window, epoch) == base
    assert order(sizes.tolist(), HASH, seed + 1, window, epoch) != base
    assert order(sizes.tolist(), OTHER_HASH, seed, window, epoch) != base
    assert order(sizes.tolist(), HASH, seed, window, epoch + 1) != base


def test_the_scheme_has_not_changed() -> None:
    """A run that resumes relies on it: with another order its samples would repeat and lack in silence."""
    small = SamplePlan(np.array([3, 0, 5, 4]), HASH, 7, 2)
    assert located(small, np.arange(12)) == [
        *[(2, 4), (3, 2), (3, 1), (2, 3), (3, 0), (3, 3)],
        *[(2, 1), (0, 1), (0, 0), (0, 2), (2, 0), (2, 2)],
    ]
    large = SamplePlan(np.full(1000, 1000), HASH, 7, 16)
    numbers = np.array([0, 1, 999_999, 1_000_000, 10**12])
    assert located(large, numbers) == [(914, 414), (638, 574), (187, 592), (543, 442), (599, 780)]


@pytest.mark.parametrize(
    ("sizes", "window"), [([5, 5, 5, 5], 1), ([5, 5, 5, 5], 2), ([3, 9, 0, 4, 4], 5), ([20], 1), ([7, 7, 5], 3)], ids=str
)
def test_every_sample_is_as_likely_at_every_position(sizes: list[int], window: int) -> None:
    """Over epochs; where the window holds everything, or the shards are equal."""
    plan = SamplePlan(np.array(sizes), HASH, 1, window)
    num_epochs, num_samples = 4000, plan.num_samples
    shards, places = plan.locate(np.arange(num_epochs * num_samples))
    samples = (np.cumsum([0, *sizes])[shards] + places).reshape(num_epochs, num_samples)
    for position in range(num_samples):
        assert stats.chisquare(np.bincount(samples[:, position], minlength=num_samples)).pvalue > 1e-5
    after = samples[:, 1:][samples[:, :-1] == 0]  # what follows sample 0
    if window >= len(sizes):
        assert stats.chisquare(np.bincount(after, minlength=num_samples)[1:]).pvalue > 1e-5


def test_the_short_block_changes() -> None:
    """Samples left over by the cut into equal blocks are not the same ones every epoch."""
    last = {tuple(sorted(order([225] * 7 + [222], epoch=epoch, window=1)[-222:])) for epoch in range(20)}
    assert len(last) > 3


@pytest.mark.parametrize("window", [1, 2, 5])
def test_the_window_limits_the_shards_in_use(window: int) -> None:
    """One window reads `window` equal shards; any stretch of its length lies in two windows."""
    plan = SamplePlan(np.full(20, 50), HASH, 3, window)
    length = 50 * window
    for epoch in range(3):
        first = epoch * plan.num_samples
        assert [touched(plan, first + start, length) for start in range(0, 1000, length)] == [window] * (20 // window)
        assert max(touched(plan, first + start, length) for start in range(0, 1000 - length, 7)) <= 2 * window


def test_the_window_mixes_its_shards() -> None:
    """A batch is not one shard's."""
    plan = SamplePlan(np.full(20, 50), HASH, 3, 5)
    assert all(touched(plan, start, 25) >= 4 for start in range(0, 1000, 25))


def test_shards_are_visited_in_another_order_each_epoch() -> None:
    firsts = [tuple(dict.fromkeys(shard for shard, _ in order([30] * 10, window=1, epoch=epoch))) for epoch in range(50)]
    assert len(set(firsts)) >= 49


@settings(max_examples=150, deadline=None)
@given(plans, st.data())
def test_the_shards_ahead_are_those_to_the_end_of_the_next_window(plan: SamplePlan, data: st.DataObject) -> None:
    """Exactly those that samples of these windows come from."""
    first = data.draw(st.integers(0, 5 * plan.num_samples))
    last = first + data.draw(st.integers(0, 2 * plan.num_samples))
    spans = [
        (epoch * plan.num_samples + window * plan._window, epoch * plan.num_samples + min((window + 1) * plan._window, plan.num_samples))
        for epoch, window in plan._windows(first, last)
    ]
    (begin, _), (_, through), (_, end) = spans[0], spans[-2], spans[-1]
    assert begin <= first < begin + plan._window
    assert through - plan._window <= last < through < end <= through + plan._window
    needed, _ = plan.locate(np.arange(begin, end))
    empty = {shard for shard, size in enumerate(np.diff(plan.shard_ends, prepend=0)) if size == 0}
    ahead = plan.shards_ahead(first, last)
    assert len(ahead) == len(set(ahead))
    assert set(ahead) - empty == set(needed.tolist())


def test_seeking_needs_one_number_a_shard() -> None:
    """10^9 samples in 10^6 shards, eight hundred epochs on."""
    tracemalloc.start()
    try:
        plan = SamplePlan(np.full(1_000_000, 1000), HASH, 0, 16)
        shards, places = plan.locate(800 * 10**9 + np.arange(256))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 50e6
    assert len(set(zip(shards.tolist(), places.tolist(), strict=True))) == 256
    assert len(set(shards.tolist())) <= 16
    assert places.max() < 1000


def permuted(values: np.ndarray, size: int, key: int) -> np.ndarray:
    return permute(values.astype(np.uint64), np.full(len(values), size, np.uint64), np.array([key], np.uint64))


def test_permute_is_one_to_one_for_small_sizes() -> None:
    for size in range(1, 201):
        for key in (0, 1, 2**64 - 1, 0x9E3779B97F4A7C15):
            assert np.array_equal(np.sort(permuted(np.arange(size), size, key)), np.arange(size)), (size, key)


@pytest.mark.parametrize("key", [0, 2**63 + 12345])
@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 10**6 + 3, 2**31 + 11, 2**32 + 1, 10**12, 2**47 - 1])
def test_permute_is_one_to_one_for_large_sizes(size: int, key: int) -> None:
    count = min(size, 60_000)
    values = np.unique(np.linspace(0, size - 1, count).astype(np.uint64)) if size > count else np.arange(size)
    result = permuted(values, size, key)
    assert result.max() < size
    assert len(np.unique(result)) == len(values)
    assert stats.kstest(result.astype(np.float64) / size, "uniform").pvalue > 1e-5


def test_permute_takes_another_size_and_key_for_each_value() -> None:
    sizes = np.random.default_rng(0).integers(1, 1000, 500).astype(np.uint64)
    values = np.arange(500, dtype=np.uint64) % sizes
    keys = np.random.default_rng(1).integers(0, 2**63, 500).astype(np.uint64)
    together = permute(values, sizes, keys)
    assert together.tolist() == [int(permute(values[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0]) for i in range(500)]


@pytest.mark.parametrize(("size", "num_orders"), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_every_permutation_is_as_likely(size: int, num_orders: int) -> None:
    num_keys = 200 * num_orders
    keys = np.repeat(np.random.default_rng(5).integers(0, 2**63, num_keys).astype(np.uint64), size)
    values = np.tile(np.arange(size, dtype=np.uint64), num_keys)
    orders = permute(values, np.full(len(values), size, np.uint64), keys).reshape(num_keys, size)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == num_orders
    assert stats.chisquare(counts).pvalue > 1e-5


@pytest.mark.parametrize("size", [6, 7, 8, 17, 64, 65, 100, 128])
def test_every_pair_is_as_likely(size: int) -> None:
    """Where two neighbours go, over keys: how often shards follow each other."""
    num_keys = 50_000
    keys = np.repeat(np.random.default_rng(6).integers(0, 2**63, num_keys).astype(np.uint64), 2)
    different = ~np.eye(size, dtype=bool).ravel()
    for first in (0, size // 2, size - 2):
        values = np.tile(np.array([first, first + 1], np.uint64), num_keys)
        pairs = permute(values, np.full(len(values), size, np.uint64), keys).reshape(num_keys, 2).astype(np.int64)
        counts = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
        assert counts[~different].sum() == 0
        assert stats.chisquare(counts[different]).pvalue > 1e-6
