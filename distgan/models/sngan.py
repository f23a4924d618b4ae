"""`sngan`: the residual GAN of the spectral-norm paper (Miyato et al. 2018, arXiv 1802.05957, appendix B.4).

Images of 32 pixels as in its table 3 (CIFAR-10), or of 64 as in the authors' code (github.com/pfnet-research/sngan_projection).
Generator: noise projected to a 4x4 start, residual blocks that double it, batch norm (over all ranks) and ReLU, tanh.
Discriminator: residual blocks that halve the image, ReLU, the sum over all pixels, one linear layer; every weight is spectrally
normalised. Labels choose the generator's batch norm and enter the discriminator by projection (Miyato & Koyama 2018, arXiv 1802.05637).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from distgan.models.base import Discriminator, Generator, ImageShape, ModelOptions
from distgan.models.layers import BatchNorm2d, LabelProjection, SpectrallyNormalisedDiscriminator

START = 4  # pixels that the generator begins with
RELU_GAIN = 2**0.5

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Options(ModelOptions, frozen=True):
    """The networks: residual, images of 32 or 64 pixels, a spectrally normalised discriminator."""

    name: Literal["sngan"] = Field(
        default="sngan", description="dcgan, mlp or sngan; the other fields of this section are the chosen model's"
    )
    latent_size: int = Field(default=128, ge=1, description="length of the noise vector")
    generator_channels: int | None = Field(
        default=None,
        ge=1,
        description="channels of the generator's last block, doubled towards the start at 64 pixels; null: 256 at 32 pixels, 64 at 64",
    )
    discriminator_channels: int | None = Field(
        default=None,
        ge=1,
        description="channels of the discriminator's first block, doubled at each block at 64 pixels; null: 128 at 32 pixels, 64 at 64",
    )

    @property
    def discriminator_is_lipschitz(self) -> bool:
        return True


@dataclass(frozen=True)
class Shape:
    """The published networks for one image size; widths are multiples of the base width."""

    generator_channels: int
    generator_widths: tuple[int, ...]  # of the start, then of each block; each block doubles the image
    discriminator_channels: int
    discriminator_widths: tuple[int, ...]  # of each block
    halvings: int  # the first blocks halve the image, the others keep it


SHAPES = {
    32: Shape(256, (1, 1, 1, 1), 128, (1, 1, 1, 1), halvings=2),
    64: Shape(64, (16, 8, 4, 2, 1), 64, (1, 2, 4, 8, 16), halvings=5),
}


def _initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """Glorot's uniform initialisation (Glorot & Bengio 2010, eq. 16) times `gain`, bias 0: as in the authors' code."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class GeneratorBlock(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, 2H, 2W]: batch norm, ReLU, doubling, 3x3, batch norm, ReLU, 3x3, plus a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, num_classes: int | None) -> None:
        super().__init__()
        # No biases: a batch norm follows every path (the last one the sum of all blocks) and takes out what is constant in a
        # channel, so that their gradients are rounding noise, which Adam would blow up to full steps.
        self.norm1 = BatchNorm2d(inputs, num_classes=num_classes)
        self.convolution1 = _initialised(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), RELU_GAIN)
        self.norm2 = BatchNorm2d(outputs, num_classes=num_classes)
        self.convolution2 = _initialised(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), RELU_GAIN)
        self.shortcut = _initialised(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        residual = self.convolution1(F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2))
        residual = self.convolution2(F.relu(self.norm2(residual, labels)))
        return residual + F.interpolate(self.shortcut(x), scale_factor=2)  # a 1x1 before the doubling: the same for a quarter


class SnganGenerator(Generator):
    """See `base.Generator`; labels choose the blocks' batch norms."""

    def __init__(self, latent_size: int, widths: list[int], image_channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.project = _initialised(nn.Linear(latent_size, widths[0] * START * START))
        self.blocks = nn.ModuleList(GeneratorBlock(inputs, outputs, num_classes) for inputs, outputs in pairwise(widths))
        self.norm = BatchNorm2d(widths[-1])
        self.to_image = _initialised(nn.Conv2d(widths[-1], image_channels, 3, padding=1))

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        x = self.project(latents).view(len(latents), -1, START, START)
        for block in self.blocks:
            x = block(x, labels)
        return self.to_image(F.relu(self.norm(x))).tanh()


class DiscriminatorBlock(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W] or, if it halves, [N, outputs, H/2, W/2]: ReLU, 3x3, ReLU, 3x3, plus the shortcut.

    The first block, which begins with the image itself, has no first ReLU.
    """

    def __init__(self, inputs: int, outputs: int, *, first: bool, halves: bool) -> None:
        super().__init__()
        self.first = first
        self.halves = halves
        hidden = outputs if first else inputs
        self.convolution1 = _initialised(nn.Conv2d(inputs, hidden, 3, padding=1), RELU_GAIN)
        self.convolution2 = _initialised(nn.Conv2d(hidden, outputs, 3, padding=1), RELU_GAIN)
        self.shortcut = _initialised(nn.Conv2d(inputs, outputs, 1)) if halves or inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.convolution1(x if self.first else F.relu(x))
        residual = self.convolution2(F.relu(residual))
        if self.halves:
            # The mean before the 1x1 of the shortcut, as the paper's first block has it: the same for a quarter.
            residual, x = F.avg_pool2d(residual, 2), F.avg_pool2d(x, 2)
        return residual + (x if self.shortcut is None else self.shortcut(x))


class SnganDiscriminator(Discriminator):
    """See `base.Discriminator`; a label enters by projection on the last features. Its weights are still to be normalised."""

    def __init__(self, widths: list[int], halvings: int, image_channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(inputs, outputs, first=number == 0, halves=number < halvings)
                for number, (inputs, outputs) in enumerate(pairwise([image_channels, *widths]))
            )
        )
        self.head = LabelProjection(widths[-1], num_classes)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        features = F.relu(self.blocks(images)).sum(dim=(2, 3))  # [N, F]
        return self.head(features, labels)


def problems(options: Options, image_size: int) -> list[str]:
    if image_size in SHAPES:
        return []
    return [
        f"model.name is 'sngan', which makes images of 32 or 64 pixels, but the images are {image_size} pixels wide; "
        "set data.resolution to 32 or 64, or model.name to dcgan or mlp."
    ]


def build(options: Options, images: ImageShape, num_classes: int | None) -> tuple[Generator, Discriminator]:
    shape = SHAPES[images.size]
    generator_channels = options.generator_channels or shape.generator_channels
    discriminator_channels = options.discriminator_channels or shape.discriminator_channels
    generator = SnganGenerator(
        options.latent_size, [generator_channels * width for width in shape.generator_widths], images.channels, num_classes
    )
    discriminator = SnganDiscriminator(
        [discriminator_channels * width for width in shape.discriminator_widths], shape.halvings, images.channels, num_classes
    )
    return generator, SpectrallyNormalisedDiscriminator(discriminator)
