"""Images as networks take them, as files hold them, and as people look at them."""

from pathlib import Path

import torch

from distgan.files import write_atomically
from distgan.models.base import Generator
from distgan.png import encode_png

PADDING = 2  # pixels between the images of a grid
VISIBLE_SIZE = 64  # smaller images are enlarged to about this in a grid


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255], in any memory format -> fp32 [-1, 1], contiguous."""
    return images.to(torch.float32, memory_format=torch.contiguous_format).mul_(2 / 255).sub_(1)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Floating point [-1, 1] -> uint8 [0, 255], rounded and clipped."""
    return images.float().add(1).mul(255 / 2).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def sample(generator: Generator, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Images from latents [N, latent_size] and labels [N] on any device -> [N, C, H, W] uint8 on the CPU.

    The generator runs in evaluation mode (running batch statistics, no exchange between ranks) and is put back after.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    images = generator(latents.to(device), None if labels is None else labels.to(device))
    generator.train(was_training)
    return to_uint8(images).cpu()


def to_png(images: torch.Tensor) -> list[bytes]:
    """[N, C, H, W] uint8 -> N encoded images."""
    return [encode_png((image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()) for image in images]


def save_grid(images: torch.Tensor, path: Path, columns: int = 10) -> None:
    """Lay [N, C, H, W] uint8 out row by row, enlarge small images by a whole factor, and write a PNG."""
    zoom = max(1, VISIBLE_SIZE // images.shape[-1])
    images = images.repeat_interleave(zoom, dim=2).repeat_interleave(zoom, dim=3)
    number, channels, height, width = images.shape
    columns = min(columns, number)
    rows = -(-number // columns)
    grid = torch.full((channels, rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING), 128, dtype=torch.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = PADDING + row * (height + PADDING), PADDING + column * (width + PADDING)
        grid[:, top : top + height, left : left + width] = image
    write_atomically(path, to_png(grid[None])[0])
