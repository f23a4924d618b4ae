"""Losses against their formulas in float64, written out with probabilities."""

import pytest
import torch

from distgan.losses import LOSSES

REAL = torch.tensor([-2.0, -0.5, 0.0, 1.5, 30.0], dtype=torch.float64)
FAKE = torch.tensor([3.0, -1.0, 0.25, -40.0, 0.0], dtype=torch.float64)

FORMULAS = {
    "non_saturating": (
        lambda real, fake: -torch.log(torch.sigmoid(real)).mean() - torch.log1p(-torch.sigmoid(fake)).mean(),
        lambda fake: -torch.log(torch.sigmoid(fake)).mean(),
    ),
    "hinge": (
        lambda real, fake: torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean(),
        lambda fake: -fake.mean(),
    ),
    "wasserstein": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula(name: str) -> None:
    discriminator, generator = FORMULAS[name]
    torch.testing.assert_close(LOSSES[name].discriminator(REAL, FAKE), discriminator(REAL, FAKE))
    torch.testing.assert_close(LOSSES[name].generator(FAKE), generator(FAKE))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_stays_finite_where_probabilities_round_to_0_and_1(name: str) -> None:
    extreme = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = LOSSES[name].discriminator(extreme, extreme) + LOSSES[name].generator(extreme)
    loss.backward()
    assert loss.isfinite()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_networks_pull_in_opposite_directions(name: str) -> None:
    fake = torch.zeros(4, requires_grad=True)
    (for_discriminator,) = torch.autograd.grad(LOSSES[name].discriminator(torch.zeros(4), fake), fake)
    (for_generator,) = torch.autograd.grad(LOSSES[name].generator(fake), fake)
    assert (for_discriminator > 0).all()
    assert (for_generator < 0).all()
