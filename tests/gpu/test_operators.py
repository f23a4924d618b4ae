"""What only a GPU shows of the CUDA operators: graphs, streams, the same bits in every run, derivatives on the device.

That their results are right is tested by tests/unit/ops, which runs all its tests on a GPU too where there is one (`-k cuda`).
Written without a GPU at hand: nothing here has been run on one yet.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from distgan.ops import gradient_penalty, library, spectral_norm_scale
from distgan.ops.gradient_penalty import gradient_penalty_reference
from distgan.ops.spectral_norm import EPS, spectral_norm_scale_reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(torch.cuda.is_available() and not library.is_compiled("cuda"), reason=library.describe("cuda")),
]


@dataclass
class Call:
    """An operator with its arguments; `state` is what it changes in place."""

    run: Callable[[], list[Tensor]]
    state: list[Tensor] = field(default_factory=list)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cuda()


def ema_update() -> Call:
    average, weights = [draw(300, 33), draw(7), draw(64, 64, 3, 3)], [draw(300, 33, seed=1), draw(7, seed=1), draw(64, 64, 3, 3, seed=1)]

    def run() -> list[Tensor]:
        torch.ops.distgan.ema_update(average, weights, 0.9)
        return average

    return Call(run, average)


def spectral_norm_arguments() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Weights, u, v and sigma."""
    weights = [draw(64, 3, 3, 3), draw(256, 4096, seed=1), draw(1, 512, seed=2), draw(1000, 3, seed=3)]
    u = torch.cat([torch.nn.functional.normalize(draw(len(weight), seed=4), dim=0) for weight in weights])
    v = torch.cat([torch.nn.functional.normalize(draw(weight[0].numel(), seed=5), dim=0) for weight in weights])
    return weights, u, v, torch.ops.distgan.spectral_norm_power_iteration_(weights, u, v, 3, EPS)


def spectral_norm_power_iteration() -> Call:
    weights, u, v, _ = spectral_norm_arguments()
    return Call(lambda: [torch.ops.distgan.spectral_norm_power_iteration_(weights, u, v, 2, EPS), u, v], [u, v])


def spectral_norm_scale_call() -> Call:
    weights, u, v, sigma = spectral_norm_arguments()
    return Call(lambda: torch.ops.distgan.spectral_norm_scale(weights, u, v, sigma, torch.float32))


def spectral_norm_scale_backward() -> Call:
    weights, u, v, sigma = spectral_norm_arguments()
    gradients = [torch.sin(weight) for weight in weights]
    return Call(lambda: torch.ops.distgan.spectral_norm_scale_backward(gradients, weights, u, v, sigma))


def gradient_penalty_call() -> Call:
    gradients = draw(48, 3, 64, 64)
    return Call(lambda: list(torch.ops.distgan.gradient_penalty(gradients, 1.0, 10.0)))


def gradient_penalty_backward() -> Call:
    gradients = draw(48, 3, 64, 64)
    norms, upstream = gradients.flatten(1).norm(dim=1), torch.tensor(0.5, device="cuda")
    return Call(lambda: [torch.ops.distgan.gradient_penalty_backward(upstream, gradients, norms, 1.0, 10.0)])


def gradient_penalty_backward_backward() -> Call:
    gradients, directions = draw(48, 3, 64, 64), draw(48, 3, 64, 64, seed=1)
    norms, upstream = gradients.flatten(1).norm(dim=1), torch.tensor(0.5, device="cuda")
    return Call(lambda: list(torch.ops.distgan.gradient_penalty_backward_backward(upstream, gradients, norms, directions, 1.0, 10.0)))


def gradient_penalty_interpolate() -> Call:
    real, fake = draw(48, 3, 64, 64), draw(48, 3, 64, 64, seed=1)
    return Call(lambda: [torch.ops.distgan.gradient_penalty_interpolate(real, fake, 7, 3, 0)])


CALLS = {
    "ema_update": ema_update,
    "spectral_norm_power_iteration_": spectral_norm_power_iteration,
    "spectral_norm_scale": spectral_norm_scale_call,
    "spectral_norm_scale_backward": spectral_norm_scale_backward,
    "gradient_penalty": gradient_penalty_call,
    "gradient_penalty_backward": gradient_penalty_backward,
    "gradient_penalty_backward_backward": gradient_penalty_backward_backward,
    "gradient_penalty_interpolate": gradient_penalty_interpolate,
}
each_operator = pytest.mark.parametrize("name", CALLS)


def results(call: Call) -> list[Tensor]:
    """Of one run from the state in which the call was made; the state is put back."""
    before = [tensor.clone() for tensor in call.state]
    outputs = [output.clone() for output in call.run()]
    restore(call, before)
    return outputs


def restore(call: Call, before: list[Tensor]) -> None:
    for tensor, value in zip(call.state, before, strict=True):
        tensor.copy_(value)


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_every_operator_is_here():
    assert CALLS.keys() == set(library.OPERATORS)


@each_operator
def test_every_run_gives_the_same_bits(name):
    call = CALLS[name]()
    expected = results(call)
    for _ in range(20):
        assert_same_bits(results(call), expected)


@each_operator
def test_a_graph_replays_what_eager_computes(name):
    call = CALLS[name]()
    expected, before = results(call), [tensor.clone() for tensor in call.state]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call.run()
    for _ in range(3):
        restore(call, before)
        graph.replay()
        assert_same_bits(outputs, expected)


@each_operator
def test_runs_in_the_current_stream(name):
    call = CALLS[name]()
    expected, before = results(call), [tensor.clone() for tensor in call.state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for tensor in call.state:
            tensor.zero_()
        torch.cuda._sleep(50_000_000)  # some hundredths of a second, in which a kernel in another stream would be done
        restore(call, before)
        outputs = [output.clone() for output in call.run()]
    torch.cuda.current_stream().wait_stream(side)
    assert_same_bits(outputs, expected)


def test_the_second_derivative_of_a_penalty_is_that_of_float64():
    images, weight = draw(16, 300), draw(300, seed=1)

    def second_derivative(images: Tensor, weight: Tensor, penalty_of: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        images, weight = images.requires_grad_(), weight.requires_grad_()
        logits = torch.tanh(images * weight).sum(dim=1)
        (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return torch.autograd.grad(penalty_of(gradients, 1.0, 10.0)[0], weight)[0]

    exact = second_derivative(images.double(), weight.double(), gradient_penalty_reference)
    actual = second_derivative(images.clone(), weight.clone(), gradient_penalty)
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-6)


def test_the_derivative_of_spectral_norm_is_that_of_float64():
    weights, u, v, sigma = spectral_norm_arguments()

    def derivative(dtype: torch.dtype, scale: Callable[..., list[Tensor]]) -> list[Tensor]:
        leaves = [weight.to(dtype).requires_grad_() for weight in weights]
        scaled = scale(leaves, u.to(dtype), v.to(dtype), sigma.to(dtype), dtype)
        return list(torch.autograd.grad(sum(torch.sin(weight).sum() for weight in scaled), leaves))

    exact = derivative(torch.float64, spectral_norm_scale_reference)
    for actual, expected in zip(derivative(torch.float32, spectral_norm_scale), exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)
