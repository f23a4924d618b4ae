"""A penalty on the norms of the discriminator's input gradients, differentiable twice.

With g_i the gradient at image i and r_i = |g_i|, P = weight * mean_i (r_i - center)^2: center 1 is the penalty of WGAN-GP
(Gulrajani et al. 2017, arXiv 1704.00028, eq. 3), center 0 that of R1 and R2 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).
"""

from typing import Any

import torch
from torch import Tensor

from distgan.ops import library
from distgan.ops.checks import require, require_floating
from distgan.ops.samples import empty_in_layout_of


def gradient_penalty(gradients: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    """The penalty, and the norms for statistics.

    Args:
        gradients: [N, ...] fp32 or bf16 (float64: by the reference twin), at most 2^31 - 1 elements. Where the elements of each
            sample lie together (contiguous, channels-last), they are read as they lie, otherwise copied first.
        center: the norm that costs nothing.
        weight: of the penalty; NaN makes the penalty NaN and leaves the norms as they are.

    Returns:
        penalty: a scalar, fp32; NaN for N = 0, as the mean of nothing is. Its derivative, laid out as `gradients`, is
            2 * weight / N * (1 - center / r_i) g_i. Where r_i = 0 it is 0 and, unless the center is 0, so is the second derivative;
            with center 0 that is 2 * weight / N everywhere. A third derivative through the compiled operator raises.
        norms: [N] fp32, not differentiable.

    NaN and infinity in a sample reach its norm and the penalty. Norms keep their accuracy for entries from 1e-18 to 1e18 (their
    squares are added in fp32, a few at a time, and then in double precision); smaller entries count as 0 and larger ones as
    infinite. One input gives the same bits in every run and at every number of threads.
    """
    if not isinstance(gradients, Tensor):
        raise TypeError(f"gradients is a {type(gradients).__name__}, not a tensor; write `(gradients,) = torch.autograd.grad(...)`.")
    if library.serves(gradients):
        return torch.ops.distgan.gradient_penalty(gradients, center, weight)
    return gradient_penalty_reference(gradients, center, weight)


def gradient_penalty_reference(gradients: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    """`gradient_penalty` in plain PyTorch, differentiable any number of times; float64 in, float64 out."""
    require(gradients.dim() > 0, "gradients has no dimension; dimension 0 has to count the samples.")
    require_floating("gradients", gradients)
    gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    squares = gradients.unsqueeze(-1).flatten(1).square().sum(dim=1)  # [N]
    # The root has no slope at 0: keep it away from there, and let no NaN through the branch that is not taken.
    is_zero = squares == 0
    norms = torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squares).sqrt())
    penalty = squares if center == 0 else (norms - center).square()
    return weight * penalty.mean(), norms.detach()


def _setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: tuple[Tensor, Tensor]) -> None:
    gradients, ctx.center, ctx.weight = inputs
    _, norms = output
    ctx.mark_non_differentiable(norms)
    ctx.save_for_backward(gradients, norms)


def _backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    gradients, norms = ctx.saved_tensors
    return torch.ops.distgan.gradient_penalty_backward(upstream, gradients, norms, ctx.center, ctx.weight), None, None


def _setup_context_of_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, float], output: Tensor) -> None:
    upstream, gradients, norms, ctx.center, ctx.weight = inputs
    ctx.save_for_backward(upstream, gradients, norms)


def _backward_of_backward(ctx: Any, directions: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    upstream, gradients, norms = ctx.saved_tensors
    # The norms are functions of the gradients: what goes through them is counted there.
    results = torch.ops.distgan.gradient_penalty_backward_backward(upstream, gradients, norms, directions, ctx.center, ctx.weight)
    return *results, None, None, None


def _third_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "The compiled gradient_penalty can be differentiated twice, not three times; use gradient_penalty_reference for a third derivative."
    )


if library.is_compiled("cpu"):

    @torch.library.register_fake("distgan::gradient_penalty")
    def _(gradients: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
        return gradients.new_empty((), dtype=torch.float32), gradients.new_empty(gradients.shape[:1], dtype=torch.float32)

    @torch.library.register_fake("distgan::gradient_penalty_backward")
    def _(upstream: Tensor, gradients: Tensor, norms: Tensor, center: float, weight: float) -> Tensor:
        return empty_in_layout_of(gradients, gradients.dtype)

    @torch.library.register_fake("distgan::gradient_penalty_backward_backward")
    def _(upstream: Tensor, gradients: Tensor, norms: Tensor, directions: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(upstream), empty_in_layout_of(gradients, gradients.dtype)

    torch.library.register_autograd("distgan::gradient_penalty", _backward, setup_context=_setup_context)
    torch.library.register_autograd("distgan::gradient_penalty_backward", _backward_of_backward, setup_context=_setup_context_of_backward)
    torch.library.register_autograd("distgan::gradient_penalty_backward_backward", _third_derivative)
