"""The CPU operators on results too large for the caches, which they write past them: the same numbers, and at every alignment."""

import pytest
import torch

from distgan.ops import (
    ema_update,
    gradient_penalty,
    gradient_penalty_interpolate,
    library,
    spectral_norm_power_iteration_,
    spectral_norm_scale,
)
from distgan.ops.gradient_penalty_interpolate import gradient_penalty_interpolate_reference

pytestmark = pytest.mark.skipif(not library.is_compiled("cpu"), reason="the operators are not compiled")

ODD = (3, 2_900_003)  # 33 MiB in fp32, 17 in bf16; the second and the third sample begin off the alignment of 16 bytes
WEIGHTS = [(1900, 1601), (5, 3), (1, 70_001), (1300, 1799)]


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["mixture", "real", "fake"])
def test_interpolate(mode, dtype: torch.dtype) -> None:
    real, fake = draw(ODD, dtype, 0), draw(ODD, dtype, 1)
    result = gradient_penalty_interpolate(real, fake, 5, 7, mode)
    assert torch.equal(result, gradient_penalty_interpolate_reference(real, fake, 5, 7, mode))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_gradient_penalty(dtype: torch.dtype, tolerance: float) -> None:
    gradients, direction = draw(ODD, dtype, 0).requires_grad_(), draw(ODD, dtype, 1)

    def derivatives(gradients: torch.Tensor) -> list[torch.Tensor]:
        penalty, _ = gradient_penalty(gradients, 1.0, 10.0)
        (first,) = torch.autograd.grad(penalty, gradients, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first, gradients, direction.to(first.dtype))]

    for ours, exact in zip(derivatives(gradients), derivatives(gradients.detach().double().requires_grad_()), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_spectral_norm(dtype: torch.dtype, tolerance: float) -> None:
    weights = [draw(shape, dtype, seed).requires_grad_() for seed, shape in enumerate(WEIGHTS * 2)]
    gradients = [draw(shape, dtype, 100 + seed) for seed, shape in enumerate(WEIGHTS * 2)]
    u = draw((sum(len(weight) for weight in weights),), torch.float32, 1)
    v = draw((sum(weight[0].numel() for weight in weights),), torch.float32, 2)
    exact_weights = [weight.detach().double().requires_grad_() for weight in weights]
    exact_u, exact_v = u.double(), v.double()
    sigma = spectral_norm_power_iteration_(weights, u, v)
    exact_sigma = spectral_norm_power_iteration_(exact_weights, exact_u, exact_v)
    torch.testing.assert_close(sigma.double(), exact_sigma, rtol=1e-6, atol=0)
    scaled = spectral_norm_scale(weights, u, v, sigma)
    exact = spectral_norm_scale(exact_weights, exact_u, exact_v, exact_sigma)
    ours = [*scaled, *torch.autograd.grad(scaled, weights, gradients)]
    for result, expected in zip(ours, [*exact, *torch.autograd.grad(exact, exact_weights, [g.double() for g in gradients])], strict=True):
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_ema_update() -> None:
    average, weights = [draw(ODD, torch.float32, 0)], [draw(ODD, torch.float32, 1)]
    expected = average[0].double().lerp(weights[0].double(), 0.1)
    ema_update(average, weights, 0.9)
    torch.testing.assert_close(average[0].double(), expected, rtol=1e-6, atol=1e-6)
