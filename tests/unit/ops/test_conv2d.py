"""The split convolution against torch's own in float64, and how many convolutions a penalty takes with either."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from distgan.ops.conv2d import conv2d, split_convolutions
from tests.training import relative_error

aten = torch.ops.aten
Convolution = Callable[..., Tensor]
SPLIT: Convolution = conv2d
STOCK: Convolution = F.conv2d

# Input, weight, options.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    "padding": ((2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    "stride": ((2, 3, 8, 8), (4, 3, 4, 4), {"stride": 2, "padding": 1}),
    "stride-drops-a-column": ((2, 3, 8, 7), (4, 3, 3, 2), {"stride": 3}),
    "pairs": ((2, 3, 9, 8), (4, 3, 3, 2), {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 3)}),
    "pairs-of-one": ((2, 3, 9, 8), (4, 3, 3, 2), {"stride": [2], "padding": (1,), "dilation": (2,)}),
    "one-by-one": ((2, 3, 4, 4), (5, 3, 1, 1), {}),
    "whole-image": ((2, 3, 4, 4), (1, 3, 4, 4), {}),
    "groups": ((2, 6, 5, 5), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 3, 5, 5), (6, 1, 3, 3), {"groups": 3, "stride": 2, "padding": 1, "dilation": 2}),
    "valid": ((2, 3, 5, 5), (4, 3, 2, 3), {"padding": "valid", "stride": 2}),
    "same-odd": ((2, 3, 5, 5), (4, 3, 3, 5), {"padding": "same"}),
    "same-even": ((2, 3, 5, 6), (4, 3, 4, 3), {"padding": "same"}),
    "same-even-dilated": ((2, 3, 7, 6), (4, 3, 2, 4), {"padding": "same", "dilation": (3, 1)}),
    "no-batch": ((3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    "no-batch-same": ((3, 6, 5), (4, 3, 2, 2), {"padding": "same"}),
}
LAYERS = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _tensors(case: str, bias: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    image, kernel, _ = CASES[case]
    shapes = [image, kernel, (kernel[0],)] if bias else [image, kernel]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _derivatives(function: Callable[..., Tensor], tensors: list[Tensor], orders: int) -> list[Tensor]:
    """The value, and one random directional derivative of each order after the other, with respect to every tensor involved."""
    generator = torch.Generator().manual_seed(1)
    inputs, outputs, found = tensors, [function(*tensors)], []
    for _ in range(orders):
        directions = [torch.randn(output.shape, dtype=output.dtype, generator=generator).requires_grad_() for output in outputs]
        scalar = torch.stack([(output * direction).sum() for output, direction in zip(outputs, directions, strict=True)]).sum()
        gradients = torch.autograd.grad(scalar, inputs, create_graph=True, allow_unused=True, materialize_grads=True)
        found += outputs
        inputs, outputs = [*inputs, *directions], list(gradients)
    return [*found, *outputs]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_three_derivatives_are_torchs(case: str, bias: bool) -> None:
    tensors = _tensors(case, bias)
    options = CASES[case][2]
    actual = _derivatives(lambda *tensors: SPLIT(*tensors, **options), tensors, 3)
    expected = _derivatives(lambda *tensors: STOCK(*tensors, **options), tensors, 3)
    for number, (tensor, reference) in enumerate(zip(actual, expected, strict=True)):
        assert tensor.shape == reference.shape
        assert relative_error(tensor.detach(), reference.detach()) < 1e-12, number


@pytest.mark.parametrize("case", ["stride", "pairs", "depthwise", "same-even", "no-batch"])
def test_gradcheck_and_gradgradcheck(case: str) -> None:
    image, kernel, options = CASES[case]
    image = (*image[:-3], image[-3], 4, 5)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (image, kernel, (kernel[0],))]
    assert gradcheck(lambda *tensors: SPLIT(*tensors, **options), tensors, fast_mode=True)
    assert gradgradcheck(lambda *tensors: SPLIT(*tensors, **options), tensors, fast_mode=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed", "expanded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtypes_and_memory_layouts(dtype: torch.dtype, layout: str) -> None:
    image, weight, bias = (tensor.detach() for tensor in _tensors("stride", dtype=dtype))
    if layout == "channels-last":
        image, weight = image.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        image, weight = image.transpose(2, 3), weight.transpose(2, 3)
    elif layout == "expanded":
        image = image[:1].expand(4, -1, -1, -1)
    tensors = [tensor.requires_grad_() for tensor in (image, weight, bias)]
    options = CASES["stride"][2]
    output, reference = SPLIT(*tensors, **options), STOCK(*tensors, **options)
    assert torch.equal(output, reference)
    assert output.dtype == dtype
    assert output.stride() == reference.stride()
    direction = torch.randn_like(reference)
    for actual, expected in zip(
        torch.autograd.grad(output, tensors, direction), torch.autograd.grad(reference, tensors, direction), strict=True
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected)
    # The gradient of a sum is an expanded scalar.
    torch.testing.assert_close(
        torch.autograd.grad(SPLIT(*tensors, **options).sum(), tensors), torch.autograd.grad(STOCK(*tensors, **options).sum(), tensors)
    )


def test_autocast() -> None:
    tensors = _tensors("stride", dtype=torch.float32)
    found = []
    for function in (SPLIT, STOCK):
        with torch.autocast("cpu", torch.bfloat16):
            output = function(*tensors, **CASES["stride"][2])
        assert output.dtype == torch.bfloat16
        gradients = torch.autograd.grad(output.float().square().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(gradients[0].square().sum(), tensors[:2])
        found.append([output, *gradients, *second])
    for actual, expected in zip(*found, strict=True):
        assert actual.dtype == expected.dtype
        assert relative_error(actual.detach(), expected.detach()) < 1e-2


@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((2, 3, 5, 5), (4, 2, 3, 3), {}),
        ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": "same", "stride": 2}),
        ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": "odd"}),
        ((2, 3, 5, 5), (4, 3, 3, 3), {"stride": (1, 2, 3)}),
        ((2, 3, 5, 5), (4, 3, 3, 3), {"stride": 0}),
        ((3, 5), (4, 3, 3, 3), {}),
        ((2, 3, 2, 2), (4, 3, 3, 3), {}),
    ],
)
def test_raises_what_torch_raises(image: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError)) as expected:
        STOCK(torch.zeros(image), torch.zeros(kernel), **options)
    with pytest.raises(expected.type):
        SPLIT(torch.zeros(image), torch.zeros(kernel), **options)


def test_complex_tensors_take_torchs_own() -> None:
    tensors = _tensors("padding", dtype=torch.complex128)
    actual, expected = (torch.autograd.grad(function(*tensors).abs().sum(), tensors) for function in (SPLIT, STOCK))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "forward_ad", "compile"])
def test_inside_a_transform_everything_is_torchs(transform: str) -> None:
    image, weight, bias = (tensor.detach() for tensor in _tensors("padding"))

    def network(image: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(image, weight, bias, padding=1), 0.2).relu().sum()

    def transformed(image: Tensor) -> Tensor:
        if transform == "grad":
            return torch.func.grad(network)(image)
        if transform == "vmap":
            return torch.func.vmap(network)(image)
        if transform == "jvp":
            return torch.func.jvp(network, (image,), (torch.ones_like(image),))[1]
        if transform == "forward_ad":
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(network(forward_ad.make_dual(image, torch.ones_like(image)))).tangent
                assert tangent is not None
                return tangent
        return torch.compile(network, backend="aot_eager", fullgraph=True)(image)

    expected = transformed(image)
    with split_convolutions():
        torch.testing.assert_close(transformed(image), expected)
    torch._dynamo.reset()


def test_compiled_inside_the_context_and_called_outside() -> None:
    tensors = _tensors("padding")
    compiled = torch.compile(lambda *tensors: STOCK(*tensors).relu().square().sum(), backend="aot_eager", fullgraph=True)
    with split_convolutions():
        inside = torch.autograd.grad(compiled(*tensors), tensors)
    outside = torch.autograd.grad(compiled(*tensors), tensors)
    torch.testing.assert_close(inside, outside)
    torch._dynamo.reset()


# Activations


def _in_place(function: Callable[..., Tensor], *arguments: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x * 1.0, *arguments)  # a leaf must not be written to


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": _in_place(nn.ReLU(inplace=True)),
    "torch.relu_": _in_place(torch.relu_),
    "Tensor.relu_": _in_place(Tensor.relu_),
    "F.leaky_relu": lambda x: F.leaky_relu(x, negative_slope=0.3),
    "nn.LeakyReLU": nn.LeakyReLU(),
    "nn.LeakyReLU(negative)": nn.LeakyReLU(-0.2),
    "nn.LeakyReLU(inplace)": _in_place(nn.LeakyReLU(0.2, inplace=True)),
    "F.leaky_relu_": _in_place(F.leaky_relu_, 0.2),
    "in place on a view": lambda x: (y := x * 1.0, y[1:].relu_())[0] * x,
    "written to afterwards": lambda x: F.leaky_relu(x, 0.2).add_(x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with split_convolutions():
        actual = _derivatives(activation, [x], 3)
        assert gradgradcheck(activation, x)
    for tensor, reference in zip(actual, _derivatives(activation, [x], 3), strict=True):
        torch.testing.assert_close(tensor, reference)


@pytest.mark.parametrize(
    "options",
    [(2,), (3, 2, 1), ((2, 3), None, (1, 0), True), (3, [2], 1, True, False), (2, (1, 2), 0, False, True, 5)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (3, 7, 6)])
def test_average_pooling_is_torchs(shape: tuple[int, ...], options: tuple[Any, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x * x, *options)

    with split_convolutions():
        actual = _derivatives(pool, [x], 3)
        assert "_AveragePool" in type(pool(x).grad_fn).__name__
    for tensor, reference in zip(actual, _derivatives(pool, [x], 3), strict=True):
        torch.testing.assert_close(tensor, reference)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("slope", [None, 0.0, 0.2])
def test_activations_at_special_values(slope: float | None, in_place: bool) -> None:
    activation = nn.ReLU(in_place) if slope is None else nn.LeakyReLU(slope, in_place)
    values = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45])
    found = []
    for context in (nullcontext(), split_convolutions()):
        x = values.clone().requires_grad_()
        with context:
            y = activation(x * 1.0)
        found.append((y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0, equal_nan=True)


def test_in_place_on_a_leaf_is_refused() -> None:
    with split_convolutions(), pytest.raises(RuntimeError, match="leaf"):
        torch.zeros(2, requires_grad=True).relu_()


# Networks


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x + self.second(F.relu(self.first(F.relu(x)))), 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.projection(x).flatten(2).chunk(3, dim=1)  # [N, 4, H * W] each
        weights = (queries.transpose(1, 2) @ keys).softmax(dim=2)
        return x + (values @ weights.transpose(1, 2)).view_as(x)


class Normalised(nn.Module):
    """The weight that convolves is no leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.norm(), padding=1)


def _convolutions(activation: Callable[[], nn.Module], groups: int = 1) -> list[nn.Module]:
    """LAYERS convolutions and activations: [N, 1, 8, 8] -> [N, 4, 4, 4]."""
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1), activation()]
    layers += [nn.Conv2d(4, 4, 3, padding=1, groups=groups), activation()]
    return [*layers, nn.Conv2d(4, 4, 4, 2, 1, bias=False), activation()]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "leaky_relu": lambda: _convolutions(lambda: nn.LeakyReLU(0.2)),
    "leaky_relu_in_place": lambda: _convolutions(lambda: nn.LeakyReLU(0.2, inplace=True)),
    "relu": lambda: _convolutions(nn.ReLU),
    "groups": lambda: _convolutions(nn.ReLU, groups=4),
    "silu": lambda: _convolutions(nn.SiLU),
    "tanh": lambda: _convolutions(nn.Tanh),
    "resnet": lambda: [nn.Conv2d(1, 4, 3, padding=1), Residual()],
    "attention": lambda: [*_convolutions(lambda: nn.LeakyReLU(0.2)), Attention(), nn.ReLU()],
    "instance_norm": lambda: [nn.Conv2d(1, 4, 3, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2), Normalised(), nn.ReLU()],
    "batch_norm": lambda: [nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, 1, 1)],
    "group_norm": lambda: [nn.Conv2d(1, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding="same")],
    "layer_norm": lambda: [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.LayerNorm([4, 4]), nn.LeakyReLU(0.1), nn.Conv2d(4, 4, 1)],
    "max_pool": lambda: [*_convolutions(nn.ReLU)[:4], nn.MaxPool2d(2), nn.PReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU6()],
    "upsample": lambda: [nn.AvgPool2d(4), nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 1)],
    "spectral_norm": lambda: [
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, 1, 1)).eval(),
    ],
}
PIECEWISE_LINEAR = ["leaky_relu", "leaky_relu_in_place", "relu", "resnet"]  # of LAYERS convolutions each


def _network(name: str) -> nn.Sequential:
    """[N, 1, 8, 8] -> logits [N, 1], float64."""
    return nn.Sequential(*NETWORKS[name](), nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).double()


def _images() -> Tensor:
    return torch.randn(3, 1, 8, 8, dtype=torch.float64)


def _penalty(network: nn.Module, images: Tensor, split: bool) -> Tensor:
    """WGAN-GP's."""
    images = images.detach().requires_grad_()
    with split_convolutions() if split else nullcontext():
        logits = network(images)
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - 1).square().mean()


def _penalty_gradients(network: nn.Module, split: bool) -> dict[str, Tensor]:
    """After `.backward()`; a gradient that is None counts as zero."""
    torch.manual_seed(1)
    network.zero_grad()
    _penalty(network, _images(), split).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_penaltys_gradient_is_torchs(name: str) -> None:
    network = _network(name)
    actual, expected = _penalty_gradients(network, True), _penalty_gradients(network, False)
    scale = max(gradient.norm() for gradient in expected.values())
    assert scale > 1e-3
    for parameter, gradient in expected.items():
        assert (actual[parameter] - gradient).norm() <= 1e-12 * (gradient.norm() + 1e-3 * scale), parameter


@pytest.mark.parametrize("trained", ["0.weight", "2.bias", "4.weight", "7.weight", "9.bias"])
def test_only_one_parameter_requires_a_gradient(trained: str) -> None:
    network = _network("leaky_relu")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name == trained)
    actual, expected = _penalty_gradients(network, True), _penalty_gradients(network, False)
    torch.testing.assert_close(actual[trained], expected[trained], rtol=1e-12, atol=0)
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if name != trained)


def test_without_gradients_the_values_are_torchs() -> None:
    network, images = _network("attention"), _images()
    for context in (torch.no_grad, torch.inference_mode):
        with context(), split_convolutions():
            logits = network(images)
        assert torch.equal(logits, network(images))
        assert not logits.requires_grad


def test_an_ordinary_backward_is_torchs() -> None:
    network, images = _network("resnet"), _images()
    parameters = list(network.parameters())
    with split_convolutions():
        actual = torch.autograd.grad(F.softplus(network(images)).mean(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(F.softplus(network(images)).mean(), parameters), rtol=1e-12, atol=1e-15)


def test_checkpointed_segments() -> None:
    network = _network("leaky_relu")

    def checkpointed(images: Tensor) -> Tensor:
        return checkpoint(network, images, use_reentrant=False)

    images = _images()
    parameters = list(network.parameters())
    with split_convolutions():
        actual = torch.autograd.grad(checkpointed(images).square().sum(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(network(images).square().sum(), parameters))


def test_the_context_ends() -> None:
    tensors = _tensors("padding")
    with split_convolutions():
        assert type(STOCK(*tensors).grad_fn).__name__ == "_ConvolutionBackward"
    with pytest.raises(RuntimeError, match="channels"), split_convolutions():
        STOCK(tensors[0][:, :1], *tensors[1:])
    assert type(STOCK(*tensors).grad_fn).__name__ == "ConvolutionBackward0"


# How much is computed


class ConvolutionCount(TorchDispatchMode):
    """Counts convolutions in forward-equivalents: a convolution, an input gradient and a weight gradient are one each."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self.input_gradients = 0
        self.weight_gradients = 0

    @property
    def total(self) -> int:
        return self.convolutions + self.input_gradients + self.weight_gradients

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is aten.convolution.default:
            self.convolutions += 1
        elif func is aten.convolution_backward.default:
            self.input_gradients += args[-1][0]
            self.weight_gradients += args[-1][1]
        else:
            assert "convolution" not in str(func)
        return func(*args, **(kwargs or {}))


def _count(network: nn.Module, split: bool) -> int:
    with ConvolutionCount() as count:
        _penalty(network, _images(), split).backward()
    return count.total


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_four_convolutions_a_layer_instead_of_six(name: str) -> None:
    network = _network(name)
    assert _count(network, split=False) == 6 * LAYERS
    assert _count(network, split=True) == 4 * LAYERS


def test_torch_makes_a_convolution_of_each_group() -> None:
    network = _network("groups")
    assert _count(network, split=False) == 6 * LAYERS + 3  # 4 groups in one of the layers
    assert _count(network, split=True) == 4 * LAYERS


@pytest.mark.parametrize("name", ["silu", "tanh"])
def test_a_smooth_activation_needs_all_six(name: str) -> None:
    network = _network(name)
    assert _count(network, split=True) == _count(network, split=False) == 6 * LAYERS


def test_weight_gradients_are_held_back_in_the_first_backward() -> None:
    network, images = _network("leaky_relu"), _images().requires_grad_()
    with split_convolutions():
        logits = network(images)
    with ConvolutionCount() as count:
        torch.autograd.grad(logits.sum(), images, create_graph=True)
    assert (count.convolutions, count.input_gradients, count.weight_gradients) == (0, LAYERS, 0)


def test_weight_gradients_are_computed_for_who_asks() -> None:
    network, images = _network("leaky_relu"), _images().requires_grad_()
    first, second = network.get_parameter("0.weight"), network.get_parameter("2.weight")
    with split_convolutions():
        logits = network(images)
    with ConvolutionCount() as count:
        (actual,) = torch.autograd.grad(logits.sum(), second, create_graph=True)
    assert (count.input_gradients, count.weight_gradients) == (LAYERS - 2, 1)  # of the third layer; of the second
    (expected,) = torch.autograd.grad(network(images).sum(), second, create_graph=True)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual.square().sum(), first), torch.autograd.grad(expected.square().sum(), first))


def test_weight_gradients_of_normalised_weights_are_held_back_too() -> None:
    layer, images = Normalised().double(), torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    with split_convolutions(), ConvolutionCount() as count:
        (gradient,) = torch.autograd.grad(layer(images).sum(), images, create_graph=True)
    assert (count.input_gradients, count.weight_gradients) == (1, 0)
    (actual,) = torch.autograd.grad(gradient.square().sum(), layer.weight)
    (gradient,) = torch.autograd.grad(layer(images).sum(), images, create_graph=True)
    torch.testing.assert_close(actual, torch.autograd.grad(gradient.square().sum(), layer.weight)[0])
