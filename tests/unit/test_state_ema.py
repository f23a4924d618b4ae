"""Counters and the moving average against their definitions."""

import copy
from itertools import pairwise

import pytest
import torch

from distgan.ema import Ema
from distgan.models import MODELS
from distgan.models.base import Generator, ImageShape
from distgan.state import TrainState


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return MODELS["dcgan"].build(MODELS["dcgan"].Options(generator_channels=2), ImageShape(1, 8), None)[0]


def test_a_share_halves_after_the_half_life(generator: Generator) -> None:
    ema = Ema(generator, half_life_images=1000, ramp_up=1.0)
    start = copy.deepcopy(ema.network.state_dict())
    target = {name: torch.zeros_like(value) for name, value in generator.state_dict().items()}
    generator.load_state_dict(target)
    for update in range(100):
        ema.update(generator, num_images=10**6 + update * 10, images_per_update=10)
    for name, value in ema.network.state_dict().items():
        torch.testing.assert_close(value, start[name] / 2, rtol=1e-4, atol=1e-6)


def test_ramp_up_forgets_the_start(generator: Generator) -> None:
    ema = Ema(generator, half_life_images=10_000, ramp_up=0.05)
    decays = [ema.decay(num_images, 64) for num_images in (64, 6400, 64_000, 200_000, 10**7)]
    assert decays[0] < 1e-5, "after the first batch the average is the generator itself"
    assert all(earlier <= later for earlier, later in pairwise(decays))
    assert decays[-1] == decays[-2] == 0.5 ** (64 / 10_000)


def test_the_average_is_a_copy_without_gradients(generator: Generator) -> None:
    ema = Ema(generator, 1000, 0.05)
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    ema.update(generator, 64, 64)
    own = {value.data_ptr() for value in ema.network.state_dict().values()}
    assert own.isdisjoint(value.data_ptr() for value in generator.state_dict().values())


def test_a_state_counts_images_and_crosses_each_multiple_once() -> None:
    state = TrainState(batch_size=24, discriminator_steps=3)
    crossings = 0
    for iteration in range(1, 101):
        state.iteration = iteration
        crossings += state.just_crossed(1000.0)
    assert state.num_images == 7200
    assert state.discriminator_step == 300
    assert crossings == 7


def test_an_interval_shorter_than_an_iteration_is_crossed_every_time() -> None:
    state = TrainState(batch_size=64, discriminator_steps=1, iteration=5)
    assert state.just_crossed(1.0)
