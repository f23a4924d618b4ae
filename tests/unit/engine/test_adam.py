"""Adam as the engines prepare and save it."""

import math

import pytest
import torch
from torch import nn

from distgan.engine.adam import AdamOptions, load_slots, prepare_step, slots


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def backward(module: nn.Module, scale: float = 1.0) -> float:
    """Leaves gradients, and returns their norm as plain Python adds it up."""
    (scale * module(torch.linspace(-1, 1, 15).view(5, 3)).square().sum()).backward()
    return math.sqrt(sum(value**2 for parameter in module.parameters() for value in parameter.grad.flatten().tolist()))


@pytest.mark.parametrize("limit", [None, 0.25, 1e6])
def test_a_long_gradient_is_scaled_down_to_the_limit(limit: float | None) -> None:
    module = network()
    optimizer = AdamOptions(1e-3, (0.5, 0.9), 1e-8, limit).build(module)
    norm = backward(module)
    before = [parameter.grad.clone() for parameter in module.parameters()]
    result = prepare_step(module, optimizer, limit)
    assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-6), "the norm before it is limited"
    assert float(result.skipped) == 0
    factor = 1.0 if limit is None else min(1.0, limit / norm)
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-5, atol=0)


@pytest.mark.parametrize("limit", [None, 0.25])
def test_a_gradient_that_is_not_finite_moves_nothing(limit: float | None) -> None:
    module = network()
    optimizer = AdamOptions(1e-3, (0.5, 0.9), 1e-8, limit).build(module)
    backward(module)
    prepare_step(module, optimizer, limit)
    optimizer.step()
    optimizer.zero_grad()
    weights, moments = [parameter.clone() for parameter in module.parameters()], {k: v.clone() for k, v in slots(module, optimizer).items()}
    backward(module, scale=float("inf"))
    assert float(prepare_step(module, optimizer, limit).skipped) == 1
    optimizer.step()
    assert all(torch.equal(now, before) for now, before in zip(module.parameters(), weights, strict=True))
    after = slots(module, optimizer)
    assert after.keys() == moments.keys()
    assert all(torch.equal(after[name], moments[name]) for name in moments)


def test_what_is_saved_goes_on_as_if_nothing_had_happened() -> None:
    options = AdamOptions(1e-2, (0.5, 0.9), 1e-8, None)
    first, second = network(), network()
    optimizer, other = options.build(first), options.build(second)
    for number in range(4):
        if number == 2:
            second.load_state_dict(first.state_dict())
            load_slots(second, other, slots(first, optimizer))
        for module, adam in ((first, optimizer), (second, other)) if number >= 2 else ((first, optimizer),):
            adam.zero_grad()
            backward(module)
            prepare_step(module, adam, None)
            adam.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
