"""`dcgan`: the all-convolutional GAN of Radford et al. 2015 (arXiv 1511.06434).

Generator: noise projected to a 4x4 or 7x7 start, transposed convolutions that double it, batch norm (over all ranks) and
ReLU, tanh. Discriminator: strided convolutions and LeakyReLU(0.2); no norm by default, because a per-sample gradient
penalty forbids batch norm there (a spectral norm it allows). Images of 4*2^k or 7*2^k pixels, k >= 1.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from distgan.models.base import Discriminator, Generator, ImageShape, ModelOptions
from distgan.models.layers import BatchNorm2d, LabelProjection, SpectrallyNormalisedDiscriminator, embed_labels


class Options(ModelOptions, frozen=True):
    """The networks: convolutional, images of 4*2^k or 7*2^k pixels."""

    name: Literal["dcgan"] = Field(
        default="dcgan", description="dcgan, mlp or sngan; the other fields of this section are the chosen model's"
    )
    generator_channels: int = Field(
        default=32, ge=1, description="channels of the generator's last hidden layer; doubled towards the start"
    )
    discriminator_channels: int = Field(
        default=32, ge=1, description="channels of the discriminator's first layer; doubled at each step down"
    )
    max_channels: int = Field(default=512, ge=1, description="no layer has more channels than this")
    discriminator_norm: Literal["none", "batch", "spectral"] = Field(
        default="none", description="norm of the discriminator; batch (over all ranks) goes with penalty.name none only, spectral with any"
    )

    @property
    def discriminator_mixes_samples(self) -> bool:
        return self.discriminator_norm == "batch"

    @property
    def discriminator_is_lipschitz(self) -> bool:
        return self.discriminator_norm == "spectral"


def _start_and_doublings(image_size: int) -> tuple[int, int] | None:
    """32 -> (4, 3); 28 -> (7, 2); None if the size is neither 4*2^k nor 7*2^k with k >= 1."""
    start, doublings = image_size, 0
    while start % 2 == 0 and start > 7:
        start, doublings = start // 2, doublings + 1
    return (start, doublings) if start in (4, 7) and doublings else None


def _initialise(module: nn.Module, normalised: bool) -> None:
    """Weights from N(0, 0.02) as in section 4 of the paper, biases 0.

    That deviation lives off batch norm; without it the signal would fade from layer to layer, so the weights then follow
    He et al. 2015 (arXiv 1502.01852, eq. 15). So they do under a spectral norm: it takes their scale out of the signal, but Adam's
    steps do not shrink with them, and turn small weights further than large ones.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if normalised:
                nn.init.normal_(layer.weight, std=0.02)
            else:
                nn.init.kaiming_normal_(layer.weight, a=0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class DcganGenerator(Generator):
    """See `base.Generator`; a label is embedded in `latent_size` numbers and appended to the noise."""

    def __init__(
        self, latent_size: int, channels: int, max_channels: int, start: int, doublings: int, image_channels: int, num_classes: int | None
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.start = start
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_size)
        widths = [min(channels * 2**level, max_channels) for level in reversed(range(doublings))]
        inputs = latent_size if num_classes is None else 2 * latent_size
        # No bias before a batch norm: its gradient is rounding noise, which Adam would blow up to full steps.
        self.project = nn.Linear(inputs, widths[0] * start * start, bias=False)
        layers: list[nn.Module] = [BatchNorm2d(widths[0]), nn.ReLU()]
        for narrow, wide in zip(widths[1:], widths[:-1], strict=True):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False), BatchNorm2d(narrow), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], image_channels, 4, stride=2, padding=1), nn.Tanh())
        _initialise(self, normalised=True)

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        x = self.project(embed_labels(self.embedding, latents, labels))
        return self.layers(x.view(len(x), -1, self.start, self.start))


class DcganDiscriminator(Discriminator):
    """See `base.Discriminator`; a label enters by projection on the last features."""

    def __init__(
        self, channels: int, max_channels: int, start: int, doublings: int, image_channels: int, num_classes: int | None, norm: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = image_channels
        for level in range(doublings):
            outputs = min(channels * 2**level, max_channels)
            with_norm = norm == "batch" and level > 0
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not with_norm))
            layers += [BatchNorm2d(outputs)] if with_norm else []
            layers.append(nn.LeakyReLU(0.2))
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = LabelProjection(inputs * start * start, num_classes)
        _initialise(self, normalised=norm == "batch")

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return self.head(self.layers(images), labels)


def problems(options: Options, image_size: int) -> list[str]:
    if _start_and_doublings(image_size):
        return []
    sizes = sorted(start * 2**doublings for start in (4, 7) for doublings in range(1, 8))
    nearest = min(sizes, key=lambda size: abs(size - image_size))
    return [
        f"model.name is 'dcgan', which makes images of 4*2^k or 7*2^k pixels, but the images are {image_size} pixels wide; "
        f"set data.resolution to {nearest} or model.name to mlp."
    ]


def build(options: Options, images: ImageShape, num_classes: int | None) -> tuple[Generator, Discriminator]:
    start_and_doublings = _start_and_doublings(images.size)
    assert start_and_doublings, "problems() lets no other size through"
    start, doublings = start_and_doublings
    generator = DcganGenerator(
        options.latent_size, options.generator_channels, options.max_channels, start, doublings, images.channels, num_classes
    )
    discriminator = DcganDiscriminator(
        options.discriminator_channels, options.max_channels, start, doublings, images.channels, num_classes, options.discriminator_norm
    )
    spectral = options.discriminator_norm == "spectral"
    return generator, SpectrallyNormalisedDiscriminator(discriminator) if spectral else discriminator
