"""`conv2d`, and `split_convolutions` for an exact gradient penalty on its own: 4 instead of 6 convolutions a layer.

A penalty differentiates the input gradient g = dD/dx once more. For a layer leaky_relu(conv(x, w)) stock autograd computes, in
convolutions as long as the forward: the forward (1), g (1), the derivatives of g through both of its factors (2), and then the
whole backward of the forward (2) on zeros: a piecewise linear layer has no second derivative, but torch returns that as a
tensor of zeros. Here it is None, which autograd carries through any layer without computing anything.

`aten::convolution_backward` is split into a node for the input's gradient and one for the weight's; the derivatives of each of
{convolution, input gradient, weight gradient} are the other two. Stock autograd takes the second derivative in the weight by a
convolution with the batch as its channels and a kernel as large as the image, one for each group, for which no kernel is fast.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.overrides import TorchFunctionMode

from distgan.ops.piecewise_linear import Size2d, avg_pool2d, leaky_relu, relu


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size2d = 1,
    padding: Size2d | str = 0,
    dilation: Size2d = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d, in value and in derivatives of every order, and it raises what that raises.

    Input [N, C, H, W] or [C, H, W], weight [O, C / groups, R, S], bias [O] or None, of one floating dtype or under autocast
    -> [N, O, P, Q] or [O, P, Q]. `padding` is also "same" (stride 1) or "valid".
    """
    if _only_stock_works() or not input.is_floating_point():
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)  # pyright: ignore[reportCallIssue, reportArgumentType]
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        input, padding = _padded_by_name(input, weight, stride, padding, dilation)
    batched = input if input.dim() == 4 else input[None]
    output = _Convolution.apply(*_autocast(batched, weight, bias), _Geometry(stride, _pair(padding), dilation, groups))
    return output if input.dim() == 4 else output[0]


class split_convolutions(TorchFunctionMode):  # noqa: N801 - `with split_convolutions():`, as torch.no_grad
    """Within this, every conv2d, relu, leaky_relu and avg_pool2d of any network is the one of `ops`; networks need not know of it.

    It must surround the forward; the backward, inside or outside, computes the derivatives that stock autograd computes. One thing
    can be told apart: a gradient that is zero because layers are piecewise linear, as a penalty's in a hidden bias, is None.
    Only a penalty in a backward of its own gains: in a backward joined with a loss those convolutions run for the loss. It gains
    from the logits down to the first layer that is smooth (a norm, SiLU) or whose zeros nobody removes here (max pooling).
    Under torch.compile (see `zero_propagation`), functorch transforms and forward-mode derivatives everything stays torch's.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        split = None if _only_stock_works() else _SPLIT.get(func)
        return (split or func)(*args, **(kwargs or {}))


def _only_stock_works() -> bool:
    """Whether something transforms operators that would not see into an autograd.Function, or (pytorch#193279) see half of it."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _Geometry(NamedTuple):
    """The arguments of `aten::convolution` that are no tensors; pairs are (height, width)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _pair(size: Size2d) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size) * (2 // len(size) or 1)


def _padded_by_name(
    input: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: str,
    dilation: tuple[int, ...],
) -> tuple[Tensor, tuple[int, ...]]:
    """The input, which "same" makes larger at the far side where the kernel is even, and the padding at both sides."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if stride != (1, 1):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    height, width = (spacing * (size - 1) for spacing, size in zip(dilation, weight.shape[2:], strict=True))
    if height % 2 or width % 2:
        input = F.pad(input, (0, width % 2, 0, height % 2))
    return input, (height // 2, width // 2)


def _autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast as autocast casts a convolution's arguments: what is saved for backward must have the output's dtype."""
    device_type = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device_type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device_type)
    return [tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors]


def _needed(ctx: Any, index: int) -> bool:
    """Whether the backward in progress leads on through argument `index` of a Function whose tensors come first.

    `ctx.needs_input_grad` only says whether the argument requires a gradient: torch's own nodes know more than that, and hold
    back the weight gradients of an autograd.grad(logits, images).
    """
    if not ctx.needs_input_grad[index]:
        return False
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[index][0])
    except RuntimeError:
        return True  # it will not answer about a leaf that autograd.grad was asked for


class _Convolution(Function):
    """(input, weight, bias) -> output."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        return torch.convolution(input, weight, bias, stride, padding, dilation, False, (0, 0), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if gradient is None:
            return None, None, None, None
        input, weight = ctx.saved_tensors
        return (
            _InputGradient.apply(gradient, weight, input.detach(), ctx.geometry) if _needed(ctx, 0) else None,
            _WeightGradient.apply(gradient, input, weight.detach(), ctx.geometry) if _needed(ctx, 1) else None,
            gradient.sum((0, 2, 3)) if _needed(ctx, 2) else None,
            None,
        )


class _InputGradient(Function):
    """(output's gradient, weight) -> input's gradient; `like`, an input, gives the shape."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, weight: Tensor, like: Tensor, geometry: _Geometry) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, weight)
        ctx.geometry = geometry
        return _convolution_backward(gradient, like, weight, geometry, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (direction,) = gradients  # [N, C, H, W], in the place of an input
        if direction is None:
            return None, None, None, None
        gradient, weight = ctx.saved_tensors
        return (
            _Convolution.apply(direction, weight, None, ctx.geometry) if _needed(ctx, 0) else None,
            _WeightGradient.apply(gradient, direction, weight.detach(), ctx.geometry) if _needed(ctx, 1) else None,
            None,
            None,
        )


class _WeightGradient(Function):
    """(output's gradient, input) -> weight's gradient; `like`, a weight, gives the shape."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor, like: Tensor, geometry: _Geometry) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, input)
        ctx.geometry = geometry
        return _convolution_backward(gradient, input, like, geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (direction,) = gradients  # [O, C / groups, R, S], in the place of a weight
        if direction is None:
            return None, None, None, None
        gradient, input = ctx.saved_tensors
        return (
            _Convolution.apply(input, direction, None, ctx.geometry) if _needed(ctx, 0) else None,
            _InputGradient.apply(gradient, direction, input.detach(), ctx.geometry) if _needed(ctx, 1) else None,
            None,
            None,
        )


def _convolution_backward(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    geometry: _Geometry,
    mask: list[bool],
) -> list[Tensor]:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(gradient, input, weight, None, stride, padding, dilation, False, [0, 0], groups, mask)


_SPLIT: dict[Callable, Callable] = {
    torch.conv2d: conv2d,
    F.relu: relu,
    torch.relu: relu,
    Tensor.relu: relu,
    torch.relu_: partial(relu, inplace=True),
    Tensor.relu_: partial(relu, inplace=True),
    F.leaky_relu: leaky_relu,
    F.leaky_relu_: partial(leaky_relu, inplace=True),
    F.avg_pool2d: avg_pool2d,
}
