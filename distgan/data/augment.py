"""Augmentation of real images: mirrored, turned, enlarged and moved, each by a draw of its own."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from distgan.randomness import Randomness


@dataclass(frozen=True)
class Augmentation:
    """What happens to each real image, within the limits of `data.augment`.

    An image's draws are a function of the run's seed and of the sample's number in the run alone, and that counts on through the
    epochs: they are the same on any ranks and after any resume, and others when the same sample comes again.
    """

    randomness: Randomness
    flip: bool
    rotation_degrees: float
    shift: float  # of the side
    zoom: float

    def __call__(self, images: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
        """Augment square images [N, C, H, H], floating point on any device, with these consecutive numbers in the run ([N] integers).

        What is off costs nothing. Without rotation, shift and zoom no pixel is computed anew.
        """
        if self.flip:
            images = self._flipped(images, numbers)
        if self.rotation_degrees or self.shift or self.zoom:
            images = self._moved(images, numbers)
        return images

    def _flipped(self, images: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
        draws = self.randomness.uniform_of_samples("augment.flip", numbers, 1)
        flipped = (draws < 0.5).to(images.device)[:, :, None, None]  # [N, 1, 1, 1]
        return torch.where(flipped, images.flip(-1), images)

    def _moved(self, images: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
        """Turned anticlockwise and enlarged about the centre, then moved to the right and down."""
        draws = 2 * self.randomness.uniform_of_samples("augment.move", numbers, 4) - 1  # [N, 4] in [-1, 1)
        angle, factor = math.radians(self.rotation_degrees) * draws[:, 0], 1 + self.zoom * draws[:, 1]
        moves = [angle.cos() / factor, angle.sin() / factor, 2 * self.shift * draws[:, 2], 2 * self.shift * draws[:, 3]]
        cosine, sine, right, down = torch.stack(moves).to(images).unbind()  # [N] each; the image reaches from -1 to 1
        return F.grid_sample(images, _grid(images.shape[-1], cosine, sine, right, down), padding_mode="border", align_corners=False)


def _grid(side: int, cosine: torch.Tensor, sine: torch.Tensor, right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Where each pixel of the result comes from, [N, side, side, 2] in x and y from -1 to 1.

    Not by affine_grid: it multiplies matrices, for which a GPU may be set to 10 bits of mantissa (TF32), and its pixels' centres
    are rounded more than once. These are exact where the side is a power of two, and elsewhere off by 1e-7 of the side at most.
    """
    centres = (2 * torch.arange(side, device=cosine.device, dtype=cosine.dtype) + 1) / side - 1
    x = centres[None, None, :] - right[:, None, None]  # [N, 1, side]
    y = centres[None, :, None] - down[:, None, None]  # [N, side, 1]
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)
