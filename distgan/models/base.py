"""What a model is to the rest of the program: a file in this folder with three names, and one line in `MODELS`.

- `Options`: a pydantic class derived from `ModelOptions`: the model's section of the configuration.
- `problems(options, image_size)`: a sentence for each reason why it cannot make images of that size.
- `build(options, images, num_classes)`: a generator and a discriminator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Logits = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # a `Discriminator`'s forward


@dataclass(frozen=True)
class ImageShape:
    """Square images: `channels` is 1 or 3, `size` the side in pixels."""

    channels: int
    size: int

    @property
    def num_values(self) -> int:
        return self.channels * self.size * self.size


class ModelOptions(BaseModel, frozen=True):
    """The networks; the fields depend on model.name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    latent_size: int = Field(default=100, ge=1, description="length of the noise vector")
    conditional: bool = Field(default=False, description="give both networks the class label")

    @property
    def discriminator_mixes_samples(self) -> bool:
        """Whether one sample's logit depends on the other samples of its batch (batch norm): no per-sample penalty then."""
        return False

    @property
    def discriminator_is_lipschitz(self) -> bool:
        """Whether the weights alone bound the slope of the discriminator (spectral norm): the Wasserstein loss needs no penalty then."""
        return False


class Generator(nn.Module):
    """`forward(latents [N, latent_size], labels [N] int64 or None) -> images [N, C, H, W] in [-1, 1]`."""

    latent_size: int

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


class Discriminator(nn.Module):
    """`forward(images [N, C, H, W] in [-1, 1], labels [N] int64 or None) -> logits [N]`."""

    step_begins = False  # whether the next forward is the first one of a step: see `Phase.begin_step`
    runs_layer_by_layer = True  # whether each layer needs but its own parameters, or `normalised` needs all of them first

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError

    def normalised(self, *, iterate: bool) -> Logits:
        """`forward` with whatever is derived from the weights alone computed once, now, for as many calls as one backward serves.

        Args:
            iterate: let the vectors of a spectral norm follow the weights first; once per step.
        """
        return self


class Model(Protocol):
    """The names that a model's file offers."""

    @property
    def Options(self) -> type[ModelOptions]: ...  # noqa: N802 - a class, as a property because a module's name is read-only here

    def problems(self, options, image_size: int) -> list[str]: ...

    def build(self, options, images: ImageShape, num_classes: int | None) -> tuple[Generator, Discriminator]:
        """`num_classes` is None for an unconditional model."""
        ...
