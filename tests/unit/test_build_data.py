"""`data` of the configuration: what is found and what is asked for."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distgan.batch import BatchLayout
from distgan.build_data import Preflight, build_reader, check_data
from distgan.cli import validate
from distgan.config import TrainConfig
from distgan.distributed import World
from tests.shards import encode, noise, sample_members, write_tar
from tests.training import SMALL_MODELS, settings


def config_of(directory: Path, conditional: bool = False, **data: Any) -> TrainConfig:
    """A small run on x.tar of the directory."""
    data = {"url": str(directory / "x.tar"), "num_workers": 0} | data
    model = SMALL_MODELS["mlp"] | {"conditional": conditional}
    return validate(settings(directory / "run", model=model, data=data, train={"batch_size": 2}))


def first_images(config: TrainConfig, found: Preflight) -> np.ndarray:
    """The first batch, [2, C, H, W]."""
    layout = BatchLayout(2, accumulation_steps=1, world_size=1, rank=0)
    with closing(build_reader(config, found, layout, first_batch=0, world=World.from_environment())) as reader:
        return next(reader).images.numpy()


@pytest.mark.parametrize(("asked", "expected"), [(None, 3), (3, 3), (1, 1)])
def test_images_have_the_channels_that_are_asked_for(asked: int | None, expected: int, tmp_path: Path) -> None:
    """As found, if none are."""
    pixels = [noise(0), noise(1, channels=3)]
    write_tar(tmp_path / "x.tar", [(f"{number}.png", encode(image)) for number, image in enumerate(pixels)])
    config = config_of(tmp_path, channels=asked)
    found = check_data(config)
    assert found.images.channels == expected
    converted = [np.array(Image.fromarray(image).convert("L" if expected == 1 else "RGB")).reshape(8, 8, -1) for image in pixels]
    assert {image.transpose(1, 2, 0).tobytes() for image in first_images(config, found)} == {image.tobytes() for image in converted}


def test_grey_images_are_asked_for_in_colour(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("0.png", encode(noise(0))), ("1.png", encode(noise(1)))])
    assert check_data(config_of(tmp_path)).images.channels == 1
    config = config_of(tmp_path, channels=3)
    images = first_images(config, check_data(config))
    assert images.shape == (2, 3, 8, 8)
    assert (images == images[:, :1]).all()


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (4, 4), (9, 9)])
def test_a_model_has_the_classes_that_are_asked_for(asked: int | None, expected: int, tmp_path: Path) -> None:
    """As found, if none are; there may be classes without an image."""
    write_tar(tmp_path / "x.tar", sample_members(range(4)))
    assert check_data(config_of(tmp_path, conditional=True, num_classes=asked)).num_classes == expected
    assert check_data(config_of(tmp_path, num_classes=asked)).num_classes is None
