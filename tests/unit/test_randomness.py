"""Every draw is a pure function of (seed, stream, index), whatever else the process does and on however many ranks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from distgan.batch import BatchLayout
from distgan.randomness import BLOCK, Randomness

Draw = Callable[[Randomness, str, int], torch.Tensor]
DRAWS: dict[str, Draw] = {
    "normal": lambda randomness, stream, index: randomness.normal(stream, index, 64, 5),
    "operator_seed": lambda randomness, stream, index: torch.tensor([randomness.operator_seed(stream, index) % 2**62]),
    "integers": lambda randomness, stream, index: randomness.integers(stream, index, 64, 1000),
    "uniform_of_samples": lambda randomness, stream, index: randomness.uniform_of_samples(stream, 8 * index + np.arange(8), 3),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


@every_draw
def test_a_draw_depends_on_seed_stream_and_index_alone(draw: Draw) -> None:
    """Not on what was drawn before, nor on torch's own generator."""
    randomness = Randomness(7)
    first = draw(randomness, "generator.latents", 3)
    torch.manual_seed(99)
    draw(randomness, "generator.latents", 4)
    assert torch.equal(draw(randomness, "generator.latents", 3), first)
    assert torch.equal(draw(Randomness(7), "generator.latents", 3), first)


@every_draw
def test_seeds_streams_and_indices_differ(draw: Draw) -> None:
    draws = [
        draw(Randomness(seed), stream, index)
        for seed in (0, 1, 12, 2**32, 2**63)
        for stream in ("generator.latents", "discriminator.latents", "a", "a:1")
        for index in (0, 1, 2, 11, 10**9)
    ]
    assert len({tuple(numbers.flatten().tolist()) for numbers in draws}) == len(draws)


@every_draw
def test_torchs_own_generator_is_left_alone(draw: Draw) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draw(Randomness(7), "stream", 0)
    assert torch.equal(torch.get_rng_state(), before)


BATCHES = [(32, 1, 2), (32, 2, 1), (32, 4, 2), (32, 8, 1), (600, 3, 1), (600, 2, 3), (4096, 64, 1), (2 * BLOCK, 2, 1), (5 * BLOCK, 4, 5)]


@pytest.mark.parametrize(("batch_size", "world_size", "accumulation_steps"), BATCHES)
def test_ranks_together_hold_the_global_draw(batch_size: int, world_size: int, accumulation_steps: int) -> None:
    """However its blocks lie to their slices."""
    randomness = Randomness(3)
    normal, integers = [], []
    for micro_batch in range(accumulation_steps):
        for rank in range(world_size):
            layout = BatchLayout(batch_size, accumulation_steps, world_size, rank)
            first = layout.positions(micro_batch).start
            normal.append(randomness.normal("generator.latents", 10, layout.slice_size, 4, first))
            integers.append(randomness.integers("generator.labels", 10, layout.slice_size, 1000, first))
    assert torch.equal(torch.cat(normal), randomness.normal("generator.latents", 10, batch_size, 4))
    assert torch.equal(torch.cat(integers), randomness.integers("generator.labels", 10, batch_size, 1000))


@pytest.mark.parametrize(("batch_size", "world_size", "accumulation_steps"), BATCHES)
def test_a_rank_draws_little_more_than_it_holds(batch_size: int, world_size: int, accumulation_steps: int) -> None:
    """What `launch plan` counts with: less than a block for each slice, and no more than there is."""
    randomness, drawn = Randomness(3), []
    for rank in range(world_size):
        layout = BatchLayout(batch_size, accumulation_steps, world_size, rank)
        slices = [layout.positions(micro_batch).start for micro_batch in range(accumulation_steps)]
        drawn.append(sum(stop for first in slices for _, _, stop in randomness._blocks("a", 0, first, layout.slice_size)))
    held = batch_size // world_size
    assert held <= max(drawn) <= held + accumulation_steps * min(BLOCK - 1, batch_size - held // accumulation_steps)


def test_blocks_are_independent() -> None:
    numbers = Randomness(5).normal("a", 0, 64 * BLOCK, 8)
    assert stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-4
    blocks = numbers.reshape(64, -1).numpy()
    assert np.abs(np.corrcoef(blocks)[np.triu_indices(64, 1)]).max() < 5 / np.sqrt(blocks.shape[1])


def test_shapes_and_types() -> None:
    randomness = Randomness(0)
    normal, integers = randomness.normal("a", 0, 6, 3), randomness.integers("a", 0, 6, 10)
    assert (normal.shape, normal.dtype) == ((6, 3), torch.float32)
    assert (integers.shape, integers.dtype) == ((6,), torch.int64)
    assert {tensor.device.type for tensor in (normal, integers)} == {"cpu"}


def test_modules_are_initialised_from_the_stream() -> None:
    randomness = Randomness(1)

    def weights(stream: str, disturb: bool = False) -> torch.Tensor:
        torch.manual_seed(1234 if disturb else 0)
        with randomness.initialising(stream):
            return torch.nn.Linear(20, 20).weight.detach()

    assert torch.equal(weights("generator"), weights("generator", disturb=True))
    assert not torch.equal(weights("generator"), weights("discriminator"))
    with Randomness(2).initialising("generator"):
        assert not torch.equal(torch.nn.Linear(20, 20).weight, weights("generator"))


def test_initialising_puts_torchs_generator_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Randomness(0).initialising("generator"):
        torch.nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="negative dimension"), Randomness(0).initialising("generator"):
        torch.cat([torch.rand(1), torch.rand(-1)])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scheme_has_not_changed() -> None:
    """A run that resumes relies on these numbers: another scheme needs another version of checkpoints."""
    randomness = Randomness(42)
    expected_normal = [[-0.32978350, -1.18126595], [-0.64767903, 1.51828551]]
    assert randomness.normal("generator.latents", 7, 2, 2).tolist() == [pytest.approx(row, abs=1e-5) for row in expected_normal]
    assert randomness.operator_seed("interpolation", 7) == 13469055998035311305
    assert randomness.integers("generator.labels", 7, 6, 10).tolist() == [7, 1, 4, 5, 7, 8]
    expected_uniform = [[0.9920841680828126, 0.43039288499272044], [0.76431578059308, 0.3871726415884661]]
    assert randomness.uniform_of_samples("augment.move", np.array([10**15, 10**15 + 1]), 5)[:, [0, 4]].tolist() == expected_uniform
    with randomness.initialising("generator"):
        assert torch.rand(2).tolist() == pytest.approx([0.13102168, 0.03772771])


def test_numbers_are_distributed_as_they_should_be() -> None:
    """Over indices too, which is where a run's numbers come from."""
    randomness = Randomness(11)
    normal = torch.cat([randomness.normal("a", index, 10, 10) for index in range(200)])
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-4
    first = torch.stack([randomness.normal("a", index, 1, 1) for index in range(2000)]).flatten()
    assert stats.kstest(first.numpy(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(first[1:].numpy(), first[:-1].numpy())[0, 1]) < 0.1
    seeds = np.array([randomness.operator_seed("b", index) for index in range(2000)], dtype=np.float64)
    assert stats.kstest(seeds / 2**64, "uniform").pvalue > 1e-4
    integers = torch.cat([randomness.integers("c", index, 50, 7) for index in range(200)])
    assert stats.chisquare(torch.bincount(integers, minlength=7).numpy()).pvalue > 1e-4


def test_the_numbers_of_a_sample_follow_its_position_alone() -> None:
    seed = Randomness(3).operator_seed("penalty", 5)
    together = Randomness.normal_of_samples(seed, 0, (64, 3, 16, 16))
    for first, count in ((0, 8), (8, 24), (63, 1)):
        assert torch.equal(Randomness.normal_of_samples(seed, first, (count, 3, 16, 16)), together[first : first + count])
    assert stats.kstest(together.flatten(), "norm").pvalue > 1e-3
    between = np.corrcoef(together.flatten(1))[np.triu_indices(64, 1)]
    assert np.abs(between).max() < 6 / np.sqrt(768), "the samples' numbers are independent"
    assert not torch.equal(Randomness.normal_of_samples(seed + 1, 0, (64, 3, 16, 16)), together)


@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_the_uniform_numbers_of_a_sample_follow_its_number_alone(size: int) -> None:
    randomness = Randomness(3)
    together = randomness.uniform_of_samples("a", np.arange(1000, 1064), size)
    assert (together.shape, together.dtype) == ((64, size), torch.float64)
    for first, count in ((0, 8), (8, 24), (63, 1)):
        part = randomness.uniform_of_samples("a", np.arange(1000 + first, 1000 + first + count), size)
        assert torch.equal(part, together[first : first + count])
    assert len(set(together.flatten().tolist())) == 64 * size, "no two samples share a number"


def test_uniform_numbers_of_samples_are_uniform_and_independent() -> None:
    numbers = Randomness(4).uniform_of_samples("a", np.arange(10**12, 10**12 + 5000), 5).numpy()
    assert 0 <= numbers.min() < numbers.max() < 1
    for column in range(5):
        assert stats.kstest(numbers[:, column], "uniform").pvalue > 1e-3, column
        assert abs(np.corrcoef(numbers[1:, column], numbers[:-1, column])[0, 1]) < 4 / np.sqrt(5000), column
    assert np.abs(np.corrcoef(numbers.T)[np.triu_indices(5, 1)]).max() < 4 / np.sqrt(5000)


def test_numbers_that_are_not_consecutive_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="counts on"):
        Randomness(0).uniform_of_samples("a", np.array([0, 2, 3]), 1)
