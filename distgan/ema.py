"""The exponential moving average of the generator, by which images are made (Yazici et al. 2019, arXiv 1806.04498)."""

import copy

import torch

from distgan.models.base import Generator
from distgan.ops import ema_update


class Ema:
    """An average with a half-life counted in images.

    Args:
        generator: the one to follow; the average starts as its copy.
        half_life_images: images after which a weight's share has halved.
        ramp_up: while fewer than half_life_images / ramp_up images were seen, the half-life is `ramp_up` times their number
            (Karras et al. 2020, arXiv 2006.06676, training configurations), so that the start is forgotten.
    """

    def __init__(self, generator: Generator, half_life_images: float, ramp_up: float) -> None:
        self.network = copy.deepcopy(generator).requires_grad_(False).eval()
        self._half_life_images, self._ramp_up = half_life_images, ramp_up

    def decay(self, num_images: int, images_per_update: int) -> float:
        """The share that the average keeps at the update after which `num_images` have been seen."""
        half_life = min(self._half_life_images, num_images * self._ramp_up)
        return 0.5 ** (images_per_update / half_life)

    @torch.no_grad()
    def update(self, generator: Generator, num_images: int, images_per_update: int) -> None:
        """Move towards `generator`: parameters and float buffers (batch statistics) are averaged, other buffers copied."""
        average, current = self.network.state_dict(), generator.state_dict()
        floating = [name for name, value in average.items() if value.is_floating_point()]
        decay = self.decay(num_images, images_per_update)
        ema_update([average[name] for name in floating], [current[name] for name in floating], decay)
        for name in average.keys() - set(floating):
            average[name].copy_(current[name])
