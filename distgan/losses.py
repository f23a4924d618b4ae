"""Adversarial losses: logits [N] -> a scalar, the mean over the batch. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Loss:
    """`discriminator(real_logits, fake_logits)` and `generator(fake_logits)`, both to be minimised."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def non_saturating_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake)) (Goodfellow et al. 2014, arXiv 1406.2661, eq. 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """-log sigmoid(fake) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake) (Lim & Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, eq. 16)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """fake - real: the negative of the critic's estimate of the Wasserstein-1 distance (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2)."""
    return fake_logits.mean() - real_logits.mean()


def linear_generator(fake_logits: Tensor) -> Tensor:
    """-fake: the generator's part of both the hinge and the Wasserstein loss."""
    return -fake_logits.mean()


LOSSES = {
    "non_saturating": Loss(non_saturating_discriminator, non_saturating_generator),
    "hinge": Loss(hinge_discriminator, linear_generator),
    "wasserstein": Loss(wasserstein_discriminator, linear_generator),
}
