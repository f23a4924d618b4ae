"""Exact gradient penalties of the discriminator: (discriminator, images) -> a scalar whose gradient is the penalty's.

With g = dD/dx at each image, the penalty is P = weight * mean((|g| - center)^2). Its gradient in the weights needs a second
derivative of D; `formulation` says how it is taken:

- `double_backward`: autograd through the first backward pass.
- `forward_over_reverse`: with v = dP/dg held fixed, dP/dw = d/dw <v, g> = d/dw (the derivative of sum D along v), so one
  forward-mode pass along v, differentiated once in reverse. The same numbers where double backward is not to be had.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from distgan.models.base import Discriminator

Formulation = Literal["double_backward", "forward_over_reverse"]


@dataclass(frozen=True)
class Penalty:
    """What to penalise: `on` the real images (R1) or mixtures of real and fake (WGAN-GP), towards norm `center`."""

    on: Literal["real", "mixture"]
    center: float
    weight: float
    every: int
    formulation: Formulation


def r1(weight: float, every: int, formulation: Formulation) -> Penalty:
    """gamma/2 * E|grad D(real)|^2 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9), gamma = `weight`."""
    return Penalty("real", 0.0, weight / 2, every, formulation)


def wgan_gp(weight: float, every: int, formulation: Formulation) -> Penalty:
    """lambda * E(|grad D(mixture)| - 1)^2 (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3), lambda = `weight`."""
    return Penalty("mixture", 1.0, weight, every, formulation)


PENALTIES: dict[str, Callable[[float, int, Formulation], Penalty]] = {"r1": r1, "wgan_gp": wgan_gp}


def mix(real_images: Tensor, fake_images: Tensor, real_share: Tensor) -> Tensor:
    """real_share * real + (1 - real_share) * fake, one share [N] for each image (arXiv 1704.00028, algorithm 1, line 6)."""
    share = real_share.view(-1, 1, 1, 1).to(real_images.dtype)
    return torch.lerp(fake_images, real_images, share)


def gradient_penalty(gradients: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    """Input gradients [N, C, H, W] -> (weight * mean((|g| - center)^2), the norms |g| [N]); gradient 0 where |g| = 0."""
    squares = gradients.flatten(1).square().sum(dim=1)  # [N]
    # The root has no slope at 0: keep it away from there, and let no NaN through the branch that is not taken.
    nonzero = squares > 0
    norms = torch.where(nonzero, torch.where(nonzero, squares, 1.0).sqrt(), 0.0)
    penalty = squares if center == 0 else (norms - center).square()
    return weight * penalty.mean(), norms


def exact_penalty(
    discriminator: Discriminator, images: Tensor, labels: Tensor | None, center: float, weight: float, formulation: Formulation
) -> tuple[Tensor, Tensor]:
    """The penalty on `images` [N, C, H, W] and the detached norms of D's input gradients [N].

    The returned scalar has the penalty's value and, in the discriminator's weights, the penalty's exact gradient.
    """
    images = images.detach().requires_grad_()
    logits = discriminator(images, labels)
    double_backward = formulation == "double_backward"
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
