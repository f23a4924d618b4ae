"""Phases: what they register, which parts they run, and what their gradients reach."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distgan.batch import Batch
from distgan.losses import LOSSES
from distgan.models import MODELS
from distgan.models.base import ImageShape
from distgan.ops import spectrally_normalised
from distgan.ops.gradient_penalty_interpolate import shares
from distgan.phases import DiscriminatorPhase, GeneratorPhase, frozen
from distgan.precision import Precision
from distgan.regularizers import Penalty
from tests.training import SMALL_MODELS, settings, trainer_of

FULL = Precision(torch.float32, "cpu")


@pytest.fixture
def phases() -> tuple[DiscriminatorPhase, GeneratorPhase]:
    torch.manual_seed(0)
    generator, discriminator = MODELS["dcgan"].build(
        MODELS["dcgan"].Options(latent_size=6, generator_channels=2, discriminator_channels=2), ImageShape(1, 8), None
    )
    penalty = Penalty("mixture", 1.0, 3.0, every=4, formulation="double_backward")
    loss = LOSSES["non_saturating"]
    return (
        DiscriminatorPhase(discriminator, generator, loss, FULL, penalty),
        GeneratorPhase(generator, discriminator, loss, FULL),
    )


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(4, 1, 8, 8), None, torch.randn(4, 6), None, penalty_seed=5, first_position=8)


def test_a_phase_registers_only_what_it_trains(phases: tuple[DiscriminatorPhase, GeneratorPhase]) -> None:
    for phase in phases:
        trained = {id(parameter) for parameter in phase.network.parameters()}
        assert {id(parameter) for parameter in phase.parameters()} == trained


def test_the_penalty_comes_first_and_only_when_due(phases: tuple[DiscriminatorPhase, GeneratorPhase]) -> None:
    parts = [phases[0].parts(step) for step in range(6)]
    assert parts == [["penalty", "loss"], ["loss"], ["loss"], ["loss"], ["penalty", "loss"], ["loss"]]


def test_a_lazy_penalty_weighs_as_much_on_average(phases: tuple[DiscriminatorPhase, GeneratorPhase], batch: Batch) -> None:
    value, statistics = phases[0]("penalty", phases[0].with_fakes(batch))
    torch.testing.assert_close(value.detach(), 4 * statistics["penalty"])


def test_the_loss_part_reaches_every_parameter(phases: tuple[DiscriminatorPhase, GeneratorPhase], batch: Batch) -> None:
    discriminator_phase, generator_phase = phases
    discriminator_phase("loss", discriminator_phase.with_fakes(batch))[0].backward()
    assert all(parameter.grad is not None for parameter in discriminator_phase.network.parameters())
    assert all(parameter.grad is None for parameter in generator_phase.network.parameters())


def test_the_generator_leaves_no_gradient_in_the_frozen_discriminator(
    phases: tuple[DiscriminatorPhase, GeneratorPhase], batch: Batch
) -> None:
    discriminator_phase, generator_phase = phases
    with frozen(discriminator_phase.network):
        generator_phase("loss", batch)[0].backward()
    assert all(parameter.grad is None for parameter in discriminator_phase.network.parameters())
    assert all(parameter.requires_grad for parameter in discriminator_phase.network.parameters())
    assert all(parameter.grad is not None for parameter in generator_phase.network.parameters())


def test_fakes_are_made_once_and_carry_no_graph(phases: tuple[DiscriminatorPhase, GeneratorPhase], batch: Batch) -> None:
    fakes = phases[0].with_fakes(batch).fake_images
    assert fakes is not None
    assert not fakes.requires_grad
    assert batch.fake_images is None


@pytest.mark.parametrize("model", ["dcgan", "sngan"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_spectral_norms_iterate_once_in_each_networks_step(
    model: str, accumulation_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of parts and micro-batches; and all of them see the same vectors."""
    spectral = {"discriminator_norm": "spectral"} if model == "dcgan" else {}
    sections = {
        "model": SMALL_MODELS[model] | spectral,
        "penalty": {"name": "r1", "every": 2},
        "engine": {"accumulation_steps": accumulation_steps},
        "train": {"discriminator_steps": 2},
    }
    calls: list[tuple[int, torch.Tensor]] = []
    operator = spectrally_normalised.spectral_norm_power_iteration_

    def counting(weights: list, u: torch.Tensor, v: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
        sigma = operator(weights, u, v, iterations, eps)
        calls.append((iterations, torch.cat([u, v])))
        return sigma

    with trainer_of(settings(tmp_path / "run", **sections)) as trainer:
        monkeypatch.setattr(spectrally_normalised, "spectral_norm_power_iteration_", counting)
        trainer.iterate()
    parts = [2, 1, 1]  # penalty and loss, loss alone, the generator's loss
    assert [iterations for iterations, _ in calls] == [
        iterations for number in parts for iterations in [1, *[0] * (number * accumulation_steps - 1)]
    ]
    for (iterations, vectors), (_, before) in zip(calls[1:], calls[:-1], strict=True):
        assert torch.equal(vectors, before) == (iterations == 0)


def test_one_step_against_the_algorithm_written_out(phases: tuple[DiscriminatorPhase, GeneratorPhase], batch: Batch) -> None:
    """Algorithm 1 of the WGAN-GP paper with the logistic loss, in float64 without any of the phases."""
    phase = phases[0].double()
    phase.generator.double()
    batch = replace(batch, real_images=batch.real_images.double(), latents=batch.latents.double())
    batch = phase.with_fakes(batch)
    for part in phase.parts(0):
        phase(part, batch)[0].backward()
    parameters = list(phase.network.parameters())
    actual = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]

    discriminator, fakes = phase.network, batch.fake_images
    assert fakes is not None
    share = shares(batch.penalty_seed, batch.first_position, 4).double()[:, None, None, None]
    mixed = (share * batch.real_images + (1 - share) * fakes).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(mixed, None).sum(), mixed, create_graph=True)
    penalty = 3.0 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
    adversarial = -torch.log(torch.sigmoid(discriminator(batch.real_images, None))).mean()
    adversarial = adversarial - torch.log(1 - torch.sigmoid(discriminator(fakes, None))).mean()
    expected = torch.autograd.grad(adversarial + 4 * penalty, parameters)
    for mine, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
