"""Augmentation: against SciPy and NumPy, as a function of the sample's number alone, with draws from their distributions."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from distgan.batch import BatchLayout
from distgan.build import check
from distgan.build_data import build_reader
from distgan.cli import validate
from distgan.data.augment import Augmentation
from distgan.distributed import World
from distgan.feed import Feed
from distgan.images import save_grid, to_uint8
from distgan.randomness import Randomness
from tests.training import settings, trainer_of

ALL_ON: dict[str, Any] = {"flip": True, "rotation_degrees": 40.0, "shift": 0.2, "zoom": 0.3}
OFF: dict[str, Any] = {"flip": False, "rotation_degrees": 0.0, "shift": 0.0, "zoom": 0.0}


class Chosen(Randomness):
    """Draws that a test chooses: the share of each limit, from -1 to 1."""

    def __init__(self, angle: float = 0, zoom: float = 0, right: float = 0, down: float = 0) -> None:
        super().__init__(0)
        self._shares = [angle, zoom, right, down]

    def uniform_of_samples(self, stream: str, numbers: np.ndarray, size: int) -> torch.Tensor:
        assert (stream, size) == ("augment.move", 4)
        return torch.tensor([self._shares] * len(numbers), dtype=torch.float64).add(1).div(2)


def noise(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    """White noise, on which every wrong pixel shows, [count, channels, side, side] fp32 in [-1, 1]."""
    pixels = np.random.default_rng(seed).uniform(-1, 1, (count, channels, side, side))
    return torch.from_numpy(pixels.astype(np.float32))


def moved(images: torch.Tensor, randomness: Randomness, **limits: float) -> np.ndarray:
    return Augmentation(randomness, **OFF | limits)(images, np.arange(len(images))).numpy()


def by_scipy(image: np.ndarray, degrees: float, factor: float, right_pixels: float, down_pixels: float) -> np.ndarray:
    """[H, W] turned anticlockwise and enlarged about its middle, then moved; rows count downwards."""
    turn = np.deg2rad(degrees)
    # A point (row, column) off the middle goes to factor * forward @ it: one to the right of it goes up for a positive angle.
    forward = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    back = np.linalg.inv(forward)
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - back @ (middle + np.array([down_pixels, right_pixels]))
    return ndimage.affine_transform(image.astype(np.float64), back, offset, order=1, mode="nearest")


@pytest.mark.parametrize("side", [16, 17, 28])
@pytest.mark.parametrize(
    ("angle", "zoom", "right", "down"),
    [
        *[(share, 0, 0, 0) for share in (-1, -0.3, 0.7, 1)],
        *[(0, share, 0, 0) for share in (-1, 0.4, 1)],
        *[(0, 0, 0.37, 0), (0, 0, 0, -0.61), (0, 0, -1, 1)],
        *[(0.5, -0.8, 0.25, -0.6), (-0.9, 0.9, -0.7, 0.1)],
    ],
)
def test_scipy_gets_the_same(side: int, angle: float, zoom: float, right: float, down: float) -> None:
    images = noise(2, 3, side)
    result = moved(images, Chosen(angle, zoom, right, down), rotation_degrees=70.0, zoom=0.6, shift=0.3)
    move = (70 * angle, 1 + 0.6 * zoom, 0.3 * side * right, 0.3 * side * down)
    expected = np.stack([[by_scipy(channel, *move) for channel in image] for image in images.numpy()])
    assert np.abs(result - expected).max() < 1e-4
    assert np.abs(result - images.numpy()).max() > 0.1


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize(("share", "quarters"), [(0.5, 1), (-0.5, -1), (1, 2)])
def test_positive_angles_turn_anticlockwise_about_the_middle(side: int, share: float, quarters: int) -> None:
    """As numpy and Pillow do, which know nothing of a centre between pixels."""
    images = noise(1, 1, side)
    result = moved(images, Chosen(angle=share), rotation_degrees=180.0)[0, 0]
    assert np.abs(result - np.rot90(images[0, 0].numpy(), quarters)).max() < 1e-5
    pillow = Image.fromarray(images[0, 0].numpy()).rotate(90 * quarters)
    assert np.abs(result - np.asarray(pillow)).max() < 1e-5


def test_whole_pixels_move_as_they_are_and_the_border_repeats() -> None:
    images = noise(1, 2, 16)
    result = moved(images, Chosen(right=0.5, down=-0.25), shift=0.5)[0]  # 4 to the right, 2 up
    expected = np.pad(images[0].numpy(), ((0, 0), (0, 2), (4, 0)), mode="edge")[:, 2:, :16]
    assert np.array_equal(result, expected)


def test_enlarging_keeps_the_middle() -> None:
    """A ramp through zero in the middle becomes that much flatter."""
    side = 33
    ramp = torch.linspace(-1, 1, side).expand(1, 1, side, side)
    result = moved(ramp, Chosen(zoom=1), zoom=0.6)
    assert np.abs(result - ramp.numpy() / 1.6).max() < 1e-6


@pytest.mark.parametrize("side", [8, 28, 32, 56, 100, 256])
def test_no_angle_gives_the_image_back(side: int) -> None:
    """To the bit where the side is a power of two; elsewhere grid_sample itself rounds a position to 2^-24 of the side."""
    images = noise(2, 3, side)
    result = moved(images, Chosen(), rotation_degrees=45.0, zoom=0.2, shift=0.1)
    contrast = 2  # between two neighbours, at most
    tolerance = 0 if side & (side - 1) == 0 else contrast * side * 2**-23
    assert np.abs(result - images.numpy()).max() <= tolerance


@pytest.mark.parametrize("side", [15, 16])
def test_a_flip_is_exact(side: int) -> None:
    images = noise(64, 3, side)
    numbers = np.arange(500, 564)
    result = Augmentation(Randomness(3), **OFF | {"flip": True})(images, numbers).numpy()
    mirrored = images.numpy()[..., ::-1]
    is_mirrored = [np.array_equal(one, other) for one, other in zip(result, mirrored, strict=True)]
    is_kept = [np.array_equal(one, other) for one, other in zip(result, images.numpy(), strict=True)]
    assert [not kept for kept in is_kept] == is_mirrored
    assert 16 < sum(is_mirrored) < 48


def test_a_flip_comes_before_the_rest_and_changes_no_other_draw() -> None:
    images, numbers = noise(32, 1, 16), np.arange(32)
    flipped = Augmentation(Randomness(0), **OFF | {"flip": True})(images, numbers)
    without_flip = Augmentation(Randomness(0), **ALL_ON | {"flip": False})(flipped, numbers)
    assert torch.equal(Augmentation(Randomness(0), **ALL_ON)(images, numbers), without_flip)


def test_off_is_the_same_tensor_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Randomness, "uniform_of_samples", lambda *_: pytest.fail("something was drawn"))
    images = noise(4, 1, 8)
    assert Augmentation(Randomness(0), **OFF)(images, np.arange(4)) is images


def measured(numbers: np.ndarray, **limits: float) -> dict[str, np.ndarray]:
    """What was drawn for each of these samples, read off what becomes of an image that holds its own coordinates."""
    side = 64
    position = (torch.arange(side) + 0.5) / side - 0.5  # of the side, from the middle
    coordinates = torch.stack([position.expand(side, side), position[:, None].expand(side, side)])  # x, y
    augmentation = Augmentation(Randomness(8), **OFF | limits)
    result = augmentation(coordinates.expand(len(numbers), 2, side, side), numbers).double().numpy()
    at = result[:, :, side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2]  # from (-1/2, -1/2) pixel, [N, 2, 3, 3]
    pixel = 1 / side
    to_right, to_bottom = (at[:, :, 0, 2] - at[:, :, 0, 0]) / (2 * pixel), (at[:, :, 2, 0] - at[:, :, 0, 0]) / (2 * pixel)
    back = np.stack([to_right, to_bottom], axis=2)  # [N, 2, 2]: result - middle -> source - middle
    source = at[:, :, 0, 0] + back.sum(axis=2) * pixel / 2  # of the middle
    move = -np.linalg.solve(back, source[:, :, None])[:, :, 0]
    return {
        "degrees": np.rad2deg(np.arctan2(back[:, 1, 0], back[:, 0, 0])),
        "factor": 1 / np.hypot(back[:, 0, 0], back[:, 1, 0]),
        "right": move[:, 0],
        "down": move[:, 1],
    }


def test_draws_are_uniform_within_their_limits_and_independent() -> None:
    count = 3000
    draws = measured(np.arange(10**9, 10**9 + count), rotation_degrees=120.0, zoom=0.4, shift=0.15)
    limits = {"degrees": (-120, 120), "factor": (0.6, 1.4), "right": (-0.15, 0.15), "down": (-0.15, 0.15)}
    for name, (low, high) in limits.items():
        slack = 1e-3 * (high - low)  # of the measurement
        assert low - slack < draws[name].min() < low + 0.01 * (high - low), name
        assert high - 0.01 * (high - low) < draws[name].max() < high + slack, name
        assert stats.kstest(draws[name], "uniform", (low, high - low)).pvalue > 1e-3, name
        assert abs(stats.pearsonr(draws[name][1:], draws[name][:-1])[0]) < 4 / np.sqrt(count), name
    for one, other in itertools.combinations(limits, 2):
        assert abs(stats.pearsonr(draws[one], draws[other])[0]) < 4 / np.sqrt(count), (one, other)


def test_each_setting_draws_for_itself_alone() -> None:
    still = {"degrees": 0.0, "factor": 1.0, "right": 0.0, "down": 0.0}
    for setting, names in {"rotation_degrees": ["degrees"], "zoom": ["factor"], "shift": ["right", "down"]}.items():
        draws = measured(np.arange(50), **{setting: 0.3})
        for name, value in still.items():
            assert (np.ptp(draws[name]) > 0.3) == (name in names), (setting, name)
            assert name in names or np.abs(draws[name] - value).max() < 1e-3, (setting, name)


def test_half_of_the_images_are_flipped() -> None:
    count = 20_000
    images = torch.tensor([-1.0, 1.0]).expand(count, 1, 2, 2)
    flipped = (Augmentation(Randomness(1), **OFF | {"flip": True})(images, np.arange(count))[:, 0, 0, 0] > 0).numpy()
    assert stats.binomtest(int(flipped.sum()), count, 0.5).pvalue > 1e-3
    same_as_next = int((flipped[1:] == flipped[:-1]).sum())
    assert stats.binomtest(same_as_next, count - 1, 0.5).pvalue > 1e-3


def test_another_seed_and_another_epoch_draw_anew() -> None:
    images = noise(1, 1, 16).expand(8, 1, 16, 16)
    results = [
        Augmentation(Randomness(seed), **ALL_ON)(images, first + np.arange(8)) for seed, first in [(0, 0), (1, 0), (0, 8), (0, 10**15)]
    ]
    every = torch.cat(results)
    assert len({image.numpy().tobytes() for image in every}) == 32


NUM_BATCHES, BATCH_SIZE = 3, 16


def real_images(
    directory: Path, world_size: int = 1, accumulation_steps: int = 1, num_workers: int = 0, first_batch: int = 0
) -> torch.Tensor:
    """The real images that training gets from `first_batch` on, in the order of the global batches, by as many readers as ranks."""
    config = validate(
        settings(
            directory,
            train={"batch_size": BATCH_SIZE},
            data={"augment": ALL_ON, "num_workers": num_workers},
            engine={"accumulation_steps": accumulation_steps},
        )
    )
    preflight = check(config, world_size)
    randomness = Randomness(config.run.seed)
    of_ranks = []
    for rank in range(world_size):
        world = World(rank=rank, size=world_size, local_rank=rank, device=torch.device("cpu"))
        layout = BatchLayout(BATCH_SIZE, accumulation_steps, world_size, rank)
        reader = build_reader(config, preflight, layout, first_batch, world)
        feed = Feed(reader, Augmentation(randomness, **ALL_ON), randomness, layout, 3, None, world.device)
        of_ranks.append([feed.for_discriminator(first_batch + number) for number in range(NUM_BATCHES)])
        reader.close()
    slices = itertools.product(range(NUM_BATCHES), range(accumulation_steps), range(world_size))
    return torch.cat([of_ranks[rank][batch][micro_batch].real_images for batch, micro_batch, rank in slices])


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return real_images(tmp_path_factory.mktemp("one"))


PARTITIONS = [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]


@pytest.mark.parametrize(("world_size", "accumulation_steps"), PARTITIONS)
def test_ranks_together_augment_as_one(world_size: int, accumulation_steps: int, one_rank: torch.Tensor, tmp_path: Path) -> None:
    assert torch.equal(real_images(tmp_path, world_size, accumulation_steps), one_rank)


def test_the_number_of_workers_changes_nothing(one_rank: torch.Tensor, tmp_path: Path) -> None:
    assert torch.equal(real_images(tmp_path, num_workers=3), one_rank)


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 1), (2, 2)])
def test_a_resumed_run_augments_as_one_that_never_stopped(
    world_size: int, accumulation_steps: int, one_rank: torch.Tensor, tmp_path: Path
) -> None:
    resumed = real_images(tmp_path, world_size, accumulation_steps, first_batch=2)
    assert torch.equal(resumed[:BATCH_SIZE], one_rank[2 * BATCH_SIZE :])


@pytest.mark.parametrize(("world_size", "accumulation_steps"), PARTITIONS)
def test_draws_by_the_place_in_a_slice_are_noticed(
    world_size: int, accumulation_steps: int, one_rank: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault."""
    original = Randomness.uniform_of_samples
    monkeypatch.setattr(
        Randomness, "uniform_of_samples", lambda self, stream, numbers, size: original(self, stream, numbers - numbers[0], size)
    )
    assert not torch.equal(real_images(tmp_path, world_size, accumulation_steps), one_rank)


def test_the_real_grid_shows_what_the_discriminator_gets(tmp_path: Path) -> None:
    def grids(name: str, augment: dict) -> tuple[bytes, bytes]:
        values = settings(
            tmp_path / name, train={"batch_size": 16}, data={"augment": augment}, metrics={"num_sample_images": 16, "port": 0}
        )
        with trainer_of(values) as trainer:
            save_grid(to_uint8(trainer.feed.for_discriminator(0)[0].real_images), tmp_path / name / "fed.png")
        return (tmp_path / name / "samples" / "real.png").read_bytes(), (tmp_path / name / "fed.png").read_bytes()

    shown, fed = grids("on", ALL_ON)
    plain, plainly_fed = grids("off", OFF)
    assert shown == fed
    assert plain == plainly_fed
    assert shown != plain
