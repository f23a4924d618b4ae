"""Penalties against closed forms and against plain autograd in float64."""

import pytest
import torch
from torch import nn

from distgan.models import MODELS
from distgan.models.base import Discriminator, ImageShape
from distgan.regularizers import EXACT_PENALTIES, Penalty, approximated_penalty, approximated_r1, exact_penalty
from tests.training import SMALL_MODELS

FORMULATIONS = ["double_backward", "forward_over_reverse"]


class Quadratic(Discriminator):
    """D(x) = a/2 |x|^2 + <b, x> + c: its input gradient is a x + b, so every penalty has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(3 * 4 * 4, dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        flat = images.flatten(1)
        return self.a / 2 * flat.square().sum(1) + flat @ self.b + self.c


def _gradients(network: nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_closed_form(center: float, formulation) -> None:
    network = Quadratic()
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    value, norms = exact_penalty(network, images, None, center, 2.5, formulation)
    g = network.a.detach() * images.flatten(1) + network.b.detach()  # [5, 48]
    r = g.norm(dim=1)
    torch.testing.assert_close(norms, r)
    torch.testing.assert_close(value.detach(), 2.5 * (r - center).square().mean())
    gradients = _gradients(network, value)
    pull = 2.5 * 2 / 5 * ((r - center) / r)[:, None] * g  # dP/dg, [5, 48]
    torch.testing.assert_close(gradients["a"], (pull * images.flatten(1)).sum())
    torch.testing.assert_close(gradients["b"], pull.sum(0))
    assert gradients["c"] == 0


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("penalty", EXACT_PENALTIES)
@pytest.mark.parametrize("model", MODELS)
def test_models_against_plain_autograd(model: str, penalty: str, formulation, conditional: bool) -> None:
    size = 32 if model == "sngan" else 8
    options = MODELS[model].Options(**SMALL_MODELS[model])
    _, discriminator = MODELS[model].build(options, ImageShape(1, size), 3 if conditional else None)
    discriminator.double().eval()  # a spectral norm that iterates would give every call a network of its own
    images = torch.rand(6, 1, size, size, dtype=torch.float64) * 2 - 1
    labels = torch.arange(6) % 3 if conditional else None
    chosen = EXACT_PENALTIES[penalty](4.0, 1, formulation)
    value, _ = exact_penalty(discriminator, images, labels, chosen.center, chosen.weight, chosen.formulation)

    x = images.clone().requires_grad_()
    per_image = []  # one image at a time, so that no sum over images can hide a mistake
    for number in range(6):
        label = None if labels is None else labels[number : number + 1]
        (gradient,) = torch.autograd.grad(discriminator(x[number : number + 1], label).sum(), x, create_graph=True)
        norm = gradient[number].square().sum().sqrt()
        per_image.append(4.0 / 2 * norm**2 if penalty == "r1" else 4.0 * (norm - 1) ** 2)
    expected = torch.stack(per_image).mean()

    torch.testing.assert_close(value, expected)
    actual_gradients, expected_gradients = _gradients(discriminator, value), _gradients(discriminator, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(actual_gradients[name], gradient, rtol=1e-10, atol=1e-14, msg=lambda m, name=name: f"{name}: {m}")


def test_weights_follow_the_papers() -> None:
    assert EXACT_PENALTIES["r1"](10.0, 16, "double_backward") == Penalty("real", 0.0, 5.0, 16, "double_backward")
    assert approximated_r1(10.0, 16, 0.1) == Penalty("real", 0.0, 5.0, 16, None, 0.1)
    assert EXACT_PENALTIES["wgan_gp"](10.0, 1, "double_backward") == Penalty("mixture", 1.0, 10.0, 1, "double_backward")


def test_the_approximation_is_the_penalty_on_average() -> None:
    """Of the value, and of the gradient in the weights; 40,000 draws of the steps, so a standard error below 1 %."""
    network, weight = Quadratic(), 2.5
    images = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    exact, _ = exact_penalty(network, images, None, 0.0, weight, "double_backward")
    many = images.repeat(5000, 1, 1, 1)
    value, slopes = approximated_penalty(network, many, None, torch.randn_like(many), weight, 1e-4)
    torch.testing.assert_close(value, exact, rtol=0.03, atol=0)
    torch.testing.assert_close(weight * slopes.square().mean(), value.detach())
    expected, found = _gradients(network, exact), _gradients(network, value)
    for name in ("a", "b"):
        assert (found[name] - expected[name]).norm() < 0.05 * expected[name].norm(), name
    assert found["c"] == 0


def test_a_step_of_the_approximation_is_the_derivative_along_it() -> None:
    network = Quadratic()
    images, steps = (torch.randn(5, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    g = network.a.detach() * images.flatten(1) + network.b.detach()
    along = (g * steps.flatten(1)).sum(1)
    for noise_std in (1e-2, 1e-4):
        _, slopes = approximated_penalty(network, images, None, steps, 1.0, noise_std)
        # What is left is the second order, a/2 noise_std |e|^2.
        curvature = network.a.detach() / 2 * noise_std * steps.flatten(1).square().sum(1)
        torch.testing.assert_close(slopes, (along + curvature).abs(), rtol=1e-8, atol=0)
