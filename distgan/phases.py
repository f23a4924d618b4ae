"""The algorithm: what a GAN minimises, one module per phase.

A phase registers ONLY the network it trains; it holds the other one unregistered, so that the engine that wraps the phase sees no
parameter of it. An engine runs a phase part by part and backpropagates each part by itself; the last part touches every
parameter, and only there do the ranks exchange gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from distgan.batch import Batch
from distgan.losses import Loss
from distgan.models.base import Discriminator, Generator, Logits
from distgan.ops import gradient_penalty_interpolate
from distgan.precision import Precision, at_least_fp32
from distgan.randomness import Randomness
from distgan.regularizers import Penalty, approximated_penalty, exact_penalty

Network = TypeVar("Network", bound=nn.Module)
Statistics = dict[str, Tensor]  # detached scalars: means over the micro-batch


class Phase(nn.Module, Generic[Network]):
    """`forward(part, batch) -> (a scalar to backpropagate, statistics)`; trains `network` and nothing else."""

    network: Network
    discriminator: Discriminator
    adversarial_loss: Loss
    precision: Precision

    def begin_step(self) -> None:
        """Call it before the first forward of each step: that one lets the discriminator's spectral norms follow its weights."""
        self.discriminator.step_begins = True

    def normalised(self) -> Logits:
        """What a part calls in place of the discriminator, made at its start.

        Outside whatever the part differentiates: under a compiled `torch.func.grad`, operators with a backward of their own
        give wrong gradients without a word (pytorch#193279).
        """
        iterate, self.discriminator.step_begins = self.discriminator.step_begins, False
        return self.discriminator.normalised(iterate=iterate)

    def around(self, network: Network) -> "Phase[Network]":
        """The same phase, training `network` in place of its own."""
        raise NotImplementedError

    def needs_whole(self, part: str) -> bool:
        """Whether the part needs all of the network's parameters at once, and cannot run layer by layer."""
        return False

    def forward(self, part: str, batch: Batch) -> tuple[Tensor, Statistics]:
        raise NotImplementedError


class DiscriminatorPhase(Phase[Discriminator]):
    """Parts: `penalty` (its own forward, only when due, first) and `loss` (touches every parameter, last)."""

    generator: Generator

    @property
    def discriminator(self) -> Discriminator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.network

    def __init__(
        self, discriminator: Discriminator, generator: Generator, loss: Loss, precision: Precision, penalty: Penalty | None
    ) -> None:
        super().__init__()
        self.network = discriminator
        object.__setattr__(self, "generator", generator)  # past nn.Module's registration
        self.adversarial_loss = loss
        self.precision = precision
        self.gradient_penalty = penalty

    def parts(self, step: int) -> list[str]:
        """The parts to run at discriminator step `step` (from 0), in order."""
        due = self.gradient_penalty is not None and step % self.gradient_penalty.every == 0
        return ["penalty", "loss"] if due else ["loss"]

    def around(self, network: Discriminator) -> "DiscriminatorPhase":
        return DiscriminatorPhase(network, self.generator, self.adversarial_loss, self.precision, self.gradient_penalty)

    def needs_whole(self, part: str) -> bool:
        """An exact penalty differentiates twice, for which there is no gathering on the way; spectral norms are taken all together."""
        is_exact = self.gradient_penalty is not None and self.gradient_penalty.formulation is not None
        return (part == "penalty" and is_exact) or not self.network.runs_layer_by_layer

    @torch.no_grad()
    def with_fakes(self, batch: Batch) -> Batch:
        """Make the fake images once for all parts."""
        with self.precision.autocast():
            images = self.generator(batch.latents, batch.fake_labels)
        return replace(batch, fake_images=at_least_fp32(images))

    def forward(self, part: str, batch: Batch) -> tuple[Tensor, Statistics]:
        return self.penalty(batch) if part == "penalty" else self.loss(batch)

    def penalty(self, batch: Batch) -> tuple[Tensor, Statistics]:
        """In full precision: in bf16 an exact gradient is off by 1.6 % in the default network, and differences would be rounding."""
        penalty = self.gradient_penalty
        assert penalty is not None
        assert batch.fake_images is not None
        images = batch.real_images
        if penalty.on == "mixture":
            images = gradient_penalty_interpolate(images, batch.fake_images, batch.penalty_seed, batch.first_position, "mixture")
        discriminator = self.normalised()
        if penalty.formulation is None:
            steps = Randomness.normal_of_samples(batch.penalty_seed, batch.first_position, tuple(images.shape)).to(images)
            value, norms = approximated_penalty(discriminator, images, batch.real_labels, steps, penalty.weight, penalty.noise_std)
        else:
            value, norms = exact_penalty(discriminator, images, batch.real_labels, penalty.center, penalty.weight, penalty.formulation)
        # Lazy regularisation: rarer but as strong on average (Karras et al. 2020, arXiv 1912.04958, appendix B).
        return value * penalty.every, {"penalty": value.detach(), "input_gradient_norm": norms.mean()}

    def loss(self, batch: Batch) -> tuple[Tensor, Statistics]:
        assert batch.fake_images is not None
        with self.precision.autocast():
            discriminator = self.normalised()
            real_logits = at_least_fp32(discriminator(batch.real_images, batch.real_labels))
            fake_logits = at_least_fp32(discriminator(batch.fake_images, batch.fake_labels))
        loss = self.adversarial_loss.discriminator(real_logits, fake_logits)
        statistics = {"discriminator_loss": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        return loss, {name: value.detach() for name, value in statistics.items()}


class GeneratorPhase(Phase[Generator]):
    """One part, `loss`. Run it while the discriminator is `frozen`."""

    def __init__(self, generator: Generator, discriminator: Discriminator, loss: Loss, precision: Precision) -> None:
        super().__init__()
        self.network = generator
        object.__setattr__(self, "discriminator", discriminator)  # past nn.Module's registration
        self.adversarial_loss = loss
        self.precision = precision

    def around(self, network: Generator) -> "GeneratorPhase":
        return GeneratorPhase(network, self.discriminator, self.adversarial_loss, self.precision)

    def forward(self, part: str, batch: Batch) -> tuple[Tensor, Statistics]:
        assert part == "loss"
        with self.precision.autocast():
            discriminator = self.normalised()
            images = self.network(batch.latents, batch.fake_labels)
            fake_logits = at_least_fp32(discriminator(images, batch.fake_labels))
        loss = self.adversarial_loss.generator(fake_logits)
        return loss, {"generator_loss": loss.detach()}


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within this, `network` passes gradients through but collects none: its engine's hooks must not fire in another's backward."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
