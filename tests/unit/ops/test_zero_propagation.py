"""The graph pass for compiled penalties: what it removes is counted, what is left is compared with eager autograd in float64."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor.compile_fx import compile_fx
from torch.func import functional_call
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from distgan.ops.zero_propagation import COMPILE_OPTIONS, PropagateZeros
from tests.training import worst_error

aten = torch.ops.aten
propagate = PropagateZeros.__call__
LAYERS = 3


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _convolutions(graph: Graph) -> int:
    """In forward-equivalents: a convolution, an input gradient and a weight gradient are one each."""
    forward = graph.find_nodes(op="call_function", target=aten.convolution.default)
    backward = graph.find_nodes(op="call_function", target=aten.convolution_backward.default)
    return len(forward) + sum(sum(node.args[-1][:2]) for node in backward)


class Spy(PropagateZeros):
    """Counts the convolutions before and after, and keeps Inductor from finding the graph in its cache."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []

    def __call__(self, graph: Graph) -> None:
        before = _convolutions(graph)
        propagate(self, graph)
        graph.lint()
        self.counts.append((before, _convolutions(graph)))

    def uuid(self) -> Any:
        return None


def _without_code_generation(spy: Spy) -> Callable[..., Any]:
    """A backend: Inductor up to its passes over the joint graph; what comes out of these runs as it is."""

    def backend(module: GraphModule, inputs: list[Tensor]) -> Any:

        def run(module: GraphModule, inputs: Any, **options: Any) -> Any:
            return make_boxed_func(module.forward)

        return compile_fx(module, inputs, inner_compile=run, config_patches={"joint_custom_pre_pass": spy})

    return backend


class Pooled(nn.Module):
    """A residual block with both kinds of pooling and a nearest-neighbour upsampling, which is a scatter in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.relu(self.convolution(x))
        return F.avg_pool2d(F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0), 2)


def _network(activation: Callable[[], nn.Module], *middle: nn.Module) -> nn.Sequential:
    """LAYERS convolutions and those in the middle: [N, 1, 8, 8] -> [N, 1], float64."""
    first = [nn.Conv2d(1, 2, 3, padding=1), activation(), nn.Conv2d(2, 2, 3, padding=1), activation(), *middle]
    size = 2 if middle else 4
    return nn.Sequential(*first, nn.Conv2d(2, 2, 4, 2, 1), activation(), nn.Flatten(), nn.Linear(2 * size * size, 1)).double()


def _compilable_penalty(network: nn.Module, images: Tensor) -> Tensor:
    gradients = torch.func.grad(lambda images: network(images).sum())(images)
    return gradients.square().sum((1, 2, 3)).mean()


def _gradients(network: nn.Module, penalty: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, Tensor]:
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.zero_grad()
    penalty(network, images).backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}


def _eager_penalty(network: nn.Module, images: Tensor) -> Tensor:
    images = images.requires_grad_()
    (gradients,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    return gradients.square().sum((1, 2, 3)).mean()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # The network; its convolutions before and after. Nobody asks for the last gradient of the images: 1 less than 6 a layer.
    "leaky_relu": (lambda: _network(lambda: nn.LeakyReLU(0.2)), 6 * LAYERS - 1, 4 * LAYERS),
    "relu_in_place": (lambda: _network(lambda: nn.ReLU(inplace=True)), 6 * LAYERS - 1, 4 * LAYERS),
    "pooled": (lambda: _network(nn.ReLU, Pooled()), 6 * (LAYERS + 1) - 1, 4 * (LAYERS + 1)),
    "silu": (lambda: _network(nn.SiLU), 6 * LAYERS - 1, 6 * LAYERS - 1),
    "group_norm": (lambda: _network(nn.ReLU, nn.GroupNorm(1, 2), nn.MaxPool2d(2)), 6 * LAYERS - 1, 6 * LAYERS - 1 - 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_are_removed_and_the_gradient_stays(name: str) -> None:
    build, before, after = NETWORKS[name]
    network, spy = build(), Spy()
    compiled = torch.compile(_compilable_penalty, fullgraph=True, backend=_without_code_generation(spy))
    actual, expected = _gradients(network, compiled), _gradients(network, _eager_penalty)
    assert spy.counts == [(before, after)]
    assert worst_error(actual, expected)[0] < 1e-12


def test_weights_from_outside() -> None:
    """Spectral norm outside, the compiled penalty on its weights, autograd through both."""
    network, spy = _network(nn.ReLU), Spy()

    def weights() -> dict[str, Tensor]:
        return {
            name: parameter / torch.linalg.matrix_norm(parameter.flatten(1), 2) if parameter.dim() > 1 else parameter
            for name, parameter in network.named_parameters()
        }

    def penalty(weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return _compilable_penalty(lambda images: functional_call(network, weights, (images,)), images)  # pyright: ignore[reportArgumentType]

    compiled = torch.compile(penalty, fullgraph=True, backend=_without_code_generation(spy))
    actual = _gradients(network, lambda _, images: compiled(weights(), images))
    expected = _gradients(
        network,
        lambda _, images: _eager_penalty(lambda images: functional_call(network, weights(), (images,)), images),  # pyright: ignore[reportArgumentType]
    )
    assert spy.counts == [(6 * LAYERS - 1, 4 * LAYERS)]
    assert worst_error(actual, expected)[0] < 1e-12


def test_compile_options_reach_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a caller compiles, with generated code."""
    network, spy = nn.Sequential(nn.Conv2d(1, 1, 3), nn.LeakyReLU(0.2)).double(), Spy()
    monkeypatch.setattr(PropagateZeros, "__call__", lambda self, graph: spy(graph))
    monkeypatch.setattr(PropagateZeros, "uuid", lambda self: None)
    compiled = torch.compile(_compilable_penalty, fullgraph=True, options=COMPILE_OPTIONS)
    # Inductor would compile a dozen programs to find out what the processor can do.
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        actual = _gradients(network, compiled)
    assert spy.counts == [(4, 3)]  # no weight follows, so nothing needs the second derivative in the output
    assert worst_error(actual, _gradients(network, _eager_penalty))[0] < 1e-12


def test_inductors_cache_knows_the_pass() -> None:
    """Without an identity, Inductor would not cache compiled graphs at all."""
    assert PropagateZeros().uuid() == PropagateZeros().uuid() is not None


# Single graphs


def _zeros(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full(size, 0.0, dtype=dtype)


X = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)
IMAGE = torch.arange(1.0, 17.0, dtype=torch.float64).view(1, 1, 4, 4)
INDEX = torch.tensor([1, 0])

# A function of one tensor, that tensor, and the operators left, apart from what fills a tensor.
GRAPHS: dict[str, tuple[Callable[[Tensor], Any], Tensor, list[str]]] = {
    "a zero is returned": (lambda x: (_zeros(2, 3) * x).sum(1), X, []),
    "zeros added": (lambda x: x + _zeros(2, 3), X, []),
    "zeros in front": (lambda x: _zeros(2, 3) + x, X, []),
    "zeros subtracted": (lambda x: x - _zeros(2, 3), X, []),
    "subtracted from zeros": (lambda x: _zeros(2, 3) - x, X, ["sub"]),
    "a multiple of zeros added": (lambda x: torch.add(x, _zeros(2, 3), alpha=2), X, ["add"]),
    "a multiple added to zeros": (lambda x: torch.add(_zeros(2, 3), x, alpha=2), X, ["add"]),
    "zeros added that broadcast": (lambda x: x[0] + _zeros(2, 3), X, ["select", "add"]),
    "zeros added that promote": (lambda x: x + _zeros(2, 3), X.float(), ["add"]),
    "zeros and a number": (lambda x: x * (_zeros(2, 3) + 1), X, ["add", "mul"]),
    "ones": (lambda x: x * torch.full((2, 3), 1.0, dtype=torch.float64), X, ["mul"]),
    "cosine of zeros": (lambda x: x * _zeros(2, 3).cos(), X, ["cos", "mul"]),
    "zeros and others joined": (lambda x: torch.cat([x, _zeros(2, 3)]), X, ["cat"]),
    "zeros and zeros joined": (lambda x: torch.cat([x * _zeros(1, 1), _zeros(2, 3)]), X, []),
    "zeros in one branch": (lambda x: torch.where(x > 2, x, _zeros(2, 3)), X, ["gt", "where"]),
    "zeros in both branches": (lambda x: torch.where(x > 2, x * _zeros(1, 3), _zeros(2, 3)), X, []),
    "zeros where the condition stands": (lambda x: torch.where(_zeros(2, 3) > 0, x, 2 * x), X, ["gt", "mul", "where"]),
    "matrix product": (lambda x: x @ _zeros(3, 2) + x[:, :2], X, ["slice"]),
    "zeros put into others": (lambda x: x.index_put((INDEX.to(x.device),), _zeros(2, 3)), X, ["index_put"]),
    "others put into zeros": (lambda x: _zeros(2, 3).index_put((INDEX.to(x.device),), x), X, ["index_put"]),
    "convolution of zeros": (lambda x: F.conv2d(_zeros(1, 1, 4, 4), x), IMAGE, []),
    "convolution of zeros, with a bias": (
        lambda x: F.conv2d(_zeros(1, 1, 4, 4), x, x[0, 0, 0, 1:2]),
        IMAGE,
        ["convolution", "select", "slice"],
    ),
    "backward of zeros": (
        lambda x: aten.convolution_backward(_zeros(1, 1, 1, 1), x, x, [1], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, True])[
            ::2
        ],
        IMAGE,
        [],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_left_of_single_graphs(name: str) -> None:
    function, argument, expected = GRAPHS[name]
    module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(argument)
    PropagateZeros()(module.graph)
    module.graph.lint()
    module.recompile()
    torch.testing.assert_close(module(argument), function(argument), rtol=0, atol=0)
    left = [node.target.overloadpacket.__name__ for node in module.graph.nodes if node.op == "call_function"]
    assert sorted(set(left) - {"full"}) == sorted(expected)


def test_dynamic_shapes_stay_as_they_are() -> None:
    module = make_fx(lambda x: x + torch.full_like(x, 0.0), tracing_mode="symbolic")(X)
    before = str(module.graph)
    PropagateZeros()(module.graph)
    assert str(module.graph) == before
