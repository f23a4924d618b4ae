"""`mlp`: fully connected networks, the smallest GAN there is (Goodfellow et al. 2014, arXiv 1406.2661).

Noise of 100, dense layers of 256-512-512 and 512-512-512 units by default, LeakyReLU(0.2) between them, any image size.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from distgan.models.base import Discriminator, Generator, ImageShape, ModelOptions
from distgan.models.layers import LabelProjection, embed_labels

LayerSizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class Options(ModelOptions, frozen=True):
    """The networks: fully connected, any image size."""

    name: Literal["mlp"] = Field(default="mlp", description="dcgan, mlp or sngan; the other fields of this section are the chosen model's")
    generator_sizes: LayerSizes = Field(default=[256, 512, 512], description="units of the generator's hidden layers")
    discriminator_sizes: LayerSizes = Field(default=[512, 512, 512], description="units of the discriminator's hidden layers")


class MlpGenerator(Generator):
    """See `base.Generator`; a label is embedded in `latent_size` numbers and appended to the noise."""

    def __init__(self, latent_size: int, sizes: list[int], images: ImageShape, num_classes: int | None) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.images = images
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_size)
        first = latent_size if num_classes is None else 2 * latent_size
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([first, *sizes]):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], images.num_values), nn.Tanh())

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        pixels = self.layers(embed_labels(self.embedding, latents, labels))  # [N, C*H*W]
        return pixels.view(-1, self.images.channels, self.images.size, self.images.size)


class MlpDiscriminator(Discriminator):
    """See `base.Discriminator`; a label enters by projection on the last features."""

    def __init__(self, sizes: list[int], images: ImageShape, num_classes: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise([images.num_values, *sizes]):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = LabelProjection(sizes[-1], num_classes)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return self.head(self.layers(images), labels)


def problems(options: Options, image_size: int) -> list[str]:
    return []


def build(options: Options, images: ImageShape, num_classes: int | None) -> tuple[Generator, Discriminator]:
    generator = MlpGenerator(options.latent_size, options.generator_sizes, images, num_classes)
    return generator, MlpDiscriminator(options.discriminator_sizes, images, num_classes)
