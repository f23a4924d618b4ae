"""Gradient penalties of the discriminator: (discriminator, images) -> a scalar whose gradient is the penalty's.

With g = dD/dx at each image, the penalty is P = weight * mean((|g| - center)^2). Its gradient in the weights needs a second
derivative of D; `formulation` says how it is taken:

- `double_backward`: autograd through the first backward pass.
- `forward_over_reverse`: with v = dP/dg held fixed, dP/dw = d/dw <v, g> = d/dw (the derivative of sum D along v), so one
  forward-mode pass along v, differentiated once in reverse. The same numbers where double backward is not to be had.

Both are exact. An approximated penalty takes differences of D instead, and no derivative in x at all.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from distgan.models.base import Logits
from distgan.ops import gradient_penalty, split_convolutions

Formulation = Literal["double_backward", "forward_over_reverse"]


@dataclass(frozen=True)
class Penalty:
    """What to penalise: `on` the real images (R1) or mixtures of real and fake (WGAN-GP), towards norm `center`."""

    on: Literal["real", "mixture"]
    center: float
    weight: float
    every: int
    formulation: Formulation | None  # None: approximated
    noise_std: float = 0.0  # of the steps that an approximated one takes


def r1(weight: float, every: int, formulation: Formulation) -> Penalty:
    """gamma/2 * E|grad D(real)|^2 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9), gamma = `weight`."""
    return Penalty("real", 0.0, weight / 2, every, formulation)


def wgan_gp(weight: float, every: int, formulation: Formulation) -> Penalty:
    """lambda * E(|grad D(mixture)| - 1)^2 (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3), lambda = `weight`."""
    return Penalty("mixture", 1.0, weight, every, formulation)


def approximated_r1(weight: float, every: int, noise_std: float) -> Penalty:
    """R1 of the same gamma = `weight`, by differences: see `approximated_penalty`."""
    return Penalty("real", 0.0, weight / 2, every, None, noise_std)


EXACT_PENALTIES: dict[str, Callable[[float, int, Formulation], Penalty]] = {"r1": r1, "wgan_gp": wgan_gp}


def exact_penalty(
    discriminator: Logits, images: Tensor, labels: Tensor | None, center: float, weight: float, formulation: Formulation
) -> tuple[Tensor, Tensor]:
    """The penalty on `images` [N, C, H, W] and the detached norms of D's input gradients [N].

    The returned scalar has the penalty's value and, in the discriminator's weights, the penalty's exact gradient.
    """
    images = images.detach().requires_grad_()
    double_backward = formulation == "double_backward"
    with split_convolutions() if double_backward else nullcontext():
        logits = discriminator(images, labels)
    # D treats each image on its own, so the gradient of the sum holds each image's own gradient.
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=double_backward)
    if double_backward:
        penalty, norms = gradient_penalty(gradients, center, weight)
        return penalty, norms.detach()
    gradients = gradients.detach().requires_grad_()
    penalty, norms = gradient_penalty(gradients, center, weight)
    (direction,) = torch.autograd.grad(penalty, gradients)
    with forward_ad.dual_level():
        slopes = forward_ad.unpack_dual(discriminator(forward_ad.make_dual(images.detach(), direction), labels)).tangent
    assert slopes is not None, "the logits depend on the images"
    surrogate = slopes.sum()
    return surrogate + (penalty - surrogate).detach(), norms.detach()


def approximated_penalty(
    discriminator: Logits, images: Tensor, labels: Tensor | None, steps: Tensor, weight: float, noise_std: float
) -> tuple[Tensor, Tensor]:
    """weight * E|grad D|^2, without a derivative of D, and the detached slopes [N] behind it.

    To first order in `noise_std`, D(x + noise_std * e) - D(x) is noise_std * <grad D, e>, whose square over normal e averages to
    noise_std^2 |grad D|^2 ("approximated R1" of Lin et al. 2025, arXiv 2501.08316, where weight / noise_std^2 is called lambda).

    Args:
        images: [N, C, H, W].
        steps: e, standard normal, [N, C, H, W].
    """
    slopes = (discriminator(images + noise_std * steps, labels) - discriminator(images, labels)) / noise_std
    return weight * slopes.square().mean(), slopes.detach().abs()
