"""relu, leaky_relu and avg_pool2d with a second derivative of None, where torch returns a tensor of zeros.

Autograd carries None through any layer without computing anything; with the zeros it runs whole backwards (see `conv2d`).
Differentiable any number of times, in reverse mode only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Size2d = int | tuple[int, ...] | list[int]  # both dimensions, or height and width


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """torch.nn.functional.relu: any shape and dtype."""
    return _PiecewiseLinear.apply(input, None, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """torch.nn.functional.leaky_relu: any shape and dtype."""
    return _PiecewiseLinear.apply(input, negative_slope, inplace)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size2d,
    stride: Size2d | None = None,
    padding: Size2d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """torch.nn.functional.avg_pool2d: [N, C, H, W] or [C, H, W] of any floating dtype."""
    strides = [] if stride is None else stride
    return _AveragePool.apply(input, (kernel_size, strides, padding, ceil_mode, count_include_pad, divisor_override))


class _PiecewiseLinear(Function):
    """relu (`slope` None; not slope 0, as relu(-inf) = 0) or leaky_relu, saving what torch's saves."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: float | None, in_place: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        if in_place:
            ctx.mark_dirty(input)
        output = F.relu(input, in_place) if slope is None else F.leaky_relu(input, slope, in_place)
        # Others may write into what torch's own node does not save: leaky_relu's output, if it is not its input too.
        ctx.saves_output = in_place or slope is None
        ctx.slope = slope
        ctx.save_for_backward(output if ctx.saves_output else input)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if gradient is None:
            return None, None, None
        return _Slope.apply(gradient, *ctx.saved_tensors, ctx.slope, ctx.saves_output), None, None


class _Slope(Function):
    """(gradient, x) -> the gradient times the activation's slope at x: linear in the gradient, locally constant in x.

    x stays an argument, though its gradient is always None: so the result requires a gradient wherever torch's does.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, slope: float | None, x_is_output: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.arguments = slope, x_is_output
        if slope is None:
            return torch.ops.aten.threshold_backward(gradient, x, 0)
        return torch.ops.aten.leaky_relu_backward(gradient, x, slope, x_is_output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if gradient is None:
            return None, None, None, None
        return _Slope.apply(gradient, *ctx.saved_tensors, *ctx.arguments), None, None, None


class _AveragePool(Function):
    """`options` are those of `avg_pool2d`, in its order."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, options: tuple[Any, ...]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input)
        ctx.options = options
        return torch.ops.aten.avg_pool2d(input, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if gradient is None:
            return None, None
        return _AveragePoolGradient.apply(gradient, *ctx.saved_tensors, ctx.options), None


class _AveragePoolGradient(Function):
    """Linear in the gradient; x, the input, gives the shape and stays an argument as in `_Slope`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, options: tuple[Any, ...]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.options = options
        return torch.ops.aten.avg_pool2d_backward(gradient, x, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if gradient is None:
            return None, None, None
        return _AveragePool.apply(gradient, ctx.options), None, None
