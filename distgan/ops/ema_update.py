"""One step of an exponential moving average over all tensors of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distgan.ops import library
from distgan.ops.checks import require, require_floating, require_tensors


def ema_update(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights, in place, tensor by tensor.

    Args:
        average: fp32, dense in memory.
        weights: fp32 or bf16, of the same shapes and strides.
        decay: the share that the average keeps, in [0, 1].
    """
    average, weights = list(average), list(weights)
    require_tensors(("average", average), ("weights", weights))
    average, weights = [tensor.detach() for tensor in average], [tensor.detach() for tensor in weights]
    if average and weights and library.serves(average[0], weights[0]):
        torch.ops.distgan.ema_update(average, weights, decay)
    else:
        ema_update_reference(average, weights, decay)


def ema_update_reference(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """`ema_update` in plain PyTorch."""
    require(len(average) == len(weights), f"average has {len(average)} tensors and weights {len(weights)}; pass as many of each.")
    require(0 <= decay <= 1, f"decay is {decay:g}, but it is the share that the average keeps, from 0 to 1.")
    for number, (mean, weight) in enumerate(zip(average, weights, strict=True)):
        require_floating(f"weights[{number}]", weight)
        require(
            mean.shape == weight.shape,
            f"average[{number}] is {list(mean.shape)} and weights[{number}] is {list(weight.shape)}; they need one shape.",
        )
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight.to(mean.dtype), 1 - decay)


if library.is_compiled("cpu"):

    @torch.library.register_fake("distgan::ema_update")
    def _(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
        return None
