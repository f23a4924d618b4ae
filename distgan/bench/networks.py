"""The weights that the operators are measured on: lists of shapes, fp32."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """The weights of one network."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def num_bytes(self) -> int:
        return sum(4 * math.prod(shape) for shape in self.shapes)

    def __str__(self) -> str:
        return f"{self.name}, {self.num_bytes / 1e6:.3g} MB"

    def draw(self, device: torch.device, num: int) -> list[list[torch.Tensor]]:
        """`num` lists of standard normal tensors of these shapes, always the same."""
        generator = torch.Generator(device).manual_seed(0)
        return [[torch.randn(shape, generator=generator, device=device) for shape in self.shapes] for _ in range(num)]


def _convolutions(channels: Sequence[int], size: int) -> list[Shape]:
    return [(outputs, inputs, size, size) for inputs, outputs in pairwise(channels)]


def _block(inputs: int, outputs: int, shortcut: bool) -> list[Shape]:
    """A discriminator's residual block: two 3x3 convolutions, and a 1x1 one where it changes the size or the width."""
    return [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3), *([(outputs, inputs, 1, 1)] if shortcut else [])]


def sngan_32() -> list[Shape]:
    """Discriminator of Miyato et al. 2018 (arXiv 1802.05957), appendix B.4: residual, CIFAR-10, width 128."""
    down = _block(3, 128, True) + _block(128, 128, True)
    return [*down, *_block(128, 128, False), *_block(128, 128, False), (1, 128)]


def biggan_256() -> list[Shape]:
    """Discriminator of Brock et al. 2018 (arXiv 1809.11096), appendix B: 256x256, ch = 96, 1000 classes, attention at 64x64."""
    widths = [3, *(96 * multiple for multiple in (1, 2, 4, 8, 8, 16))]
    shapes = []
    for inputs, outputs in pairwise(widths):
        shapes += _block(inputs, outputs, True)
        if outputs == 192:  # the map is 64x64 now: query, key, value and output, as wide as in the authors' PyTorch code
            shapes += [(24, 192, 1, 1), (24, 192, 1, 1), (96, 192, 1, 1), (192, 96, 1, 1)]
    return [*shapes, *_block(1536, 1536, False), (1, 1536), (1000, 1536)]


def dcgan_generator_64() -> list[Shape]:
    """Generator of Radford et al. 2015 (arXiv 1511.06434), figure 1, with 4x4 kernels and all that belongs to its batch norms."""
    widths = [1024, 512, 256, 128]
    norms = [(width,) for width in widths for _ in range(4)]
    upwards = [(inputs, outputs, 4, 4) for inputs, outputs in pairwise([*widths, 3])]
    return [(1024 * 4 * 4, 100), *upwards, *norms, (3,)]


def sngan_generator_32() -> list[Shape]:
    """Generator of Miyato et al. 2018, appendix B.4, width 256: three residual blocks with two batch norms each, and a last norm."""
    norms = [(256,)] * 4 * 7
    blocks = [(256, 256, 3, 3), (256, 256, 3, 3), (256, 256, 1, 1)] * 3
    return [(4 * 4 * 256, 128), *blocks, *norms, (3, 256, 3, 3), (3,)]


TINY = Network("41 tiny layers", ((32, 32, 3, 3),) * 41)
SNGAN = Network("SNGAN-32", tuple(sngan_32()))
MEDIUM = Network("19 medium layers", ((128, 3, 3, 3), *_convolutions([128] * 19, 3)))
LARGE = Network("9 large layers", tuple(_convolutions([64, 128, 256, *[512] * 7], 3)))
HUNDRED = Network("100 x (256 x 2304)", ((256, 2304),) * 100)
BIGGAN = Network("BigGAN-256", tuple(biggan_256()))

DISCRIMINATORS = [TINY, SNGAN, MEDIUM, LARGE, HUNDRED, BIGGAN]

GENERATORS = [
    Network("SNGAN-32 generator", tuple(sngan_generator_32())),
    Network("DCGAN-64 generator", tuple(dcgan_generator_64())),
    Network("48 x (1024 x 1024)", ((1024, 1024),) * 48),
]
