"""Pixels in and out, and the grid as a viewer gets it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distgan.images import PADDING, sample, save_grid, to_float, to_png, to_uint8
from distgan.models import MODELS
from distgan.models.base import ImageShape


def test_every_grey_value_survives_the_way_there_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_float(values).aminmax() == (-1.0, 1.0)


def test_values_outside_are_clipped() -> None:
    assert to_uint8(torch.tensor([-3.0, 7.0])).tolist() == [0, 255]


def test_png_of_grey_and_colour() -> None:
    grey, colour = torch.zeros(2, 1, 4, 5, dtype=torch.uint8), torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    colour[1, 2] = 200
    assert len(to_png(grey)) == 2
    import io

    decoded = np.asarray(Image.open(io.BytesIO(to_png(colour)[1])))
    assert decoded.shape == (4, 5, 3)
    assert (decoded == [0, 0, 200]).all()


def test_a_grid_is_laid_out_row_by_row(tmp_path: Path) -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 64, 64) * 10
    save_grid(images, tmp_path / "grid.png", columns=3)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 64 + 3 * PADDING, 3 * 64 + 4 * PADDING)
    centre = [
        [grid[PADDING + 32 + row * (64 + PADDING), PADDING + 32 + column * (64 + PADDING)] for column in range(3)] for row in range(2)
    ]
    assert centre == [[0, 10, 20], [30, 40, 128]]


def test_small_images_are_enlarged_without_blur(tmp_path: Path) -> None:
    images = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).view(1, 1, 2, 2)
    save_grid(images, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))[PADDING:-PADDING, PADDING:-PADDING]
    assert grid.shape == (64, 64)
    assert (grid[:32, :32] == 0).all()
    assert (grid[:32, 32:] == 255).all()


def test_sampling_uses_running_statistics_and_leaves_the_network_as_it_was() -> None:
    generator, _ = MODELS["dcgan"].build(MODELS["dcgan"].Options(generator_channels=2), ImageShape(1, 8), None)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    latents = torch.randn(4, generator.latent_size)
    together = sample(generator, latents, None)
    one_by_one = torch.cat([sample(generator, latents[row : row + 1], None) for row in range(4)])
    assert (together.int() - one_by_one.int()).abs().max() <= 1, "an image does not depend on its neighbours"
    assert generator.training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
