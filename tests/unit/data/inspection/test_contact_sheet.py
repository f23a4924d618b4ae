"""The sheet of samples: every cell is the image of a sample of its row's class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data.inspection import contact_sheet
from distgan.data.inspection.contact_sheet import COLUMNS, MAX_ROWS, rows_of
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.urls import resolve
from distgan.images import PADDING
from tests.shards import encode, flip_bit, member_offsets, noise, write_set, write_tar

SIDE = 64  # of a cell: 8 pixels, enlarged


def opened(directory: Path) -> Manifest:
    return open_manifest(resolve(str(directory)))


def cells(manifest: Manifest, path: Path) -> np.ndarray:
    """Draw a sheet of 8x8 grey images -> [rows, COLUMNS, 8, 8]."""
    labels = np.concatenate([shard.load_index()["label"] for shard in manifest.shards])
    contact_sheet.write(path, manifest, labels)
    sheet = np.asarray(Image.open(path))
    step = SIDE + PADDING
    rows = (len(sheet) - PADDING) // step
    assert sheet.shape == (rows * step + PADDING, COLUMNS * step + PADDING)
    inner = sheet[PADDING:, PADDING:].reshape(rows, step, COLUMNS, step)[:, :SIDE, :, :SIDE]
    return inner[:, ::8, :, ::8].transpose(0, 2, 1, 3)


def numbers_in(of_cells: np.ndarray, num_samples: int) -> list[int | None]:
    """Which sample each cell shows; None: plain grey."""
    known = {noise(number).tobytes(): number for number in range(num_samples)} | {np.full((8, 8), 128, np.uint8).tobytes(): None}
    return [known[cell.tobytes()] for cell in of_cells]


def test_a_row_per_class(tmp_path: Path) -> None:
    """Samples of `write_set` have the last digit of their number as label."""
    write_set(tmp_path, [50, 7, 180])
    found = cells(opened(tmp_path), tmp_path / "sheet.png")
    assert len(found) == 10
    for label, row in enumerate(found):
        numbers = numbers_in(row, 237)
        assert [number % 10 for number in numbers] == [label] * COLUMNS  # pyright: ignore
        assert len(set(numbers)) == COLUMNS
        assert max(numbers) > 100, "over the whole set"  # pyright: ignore


def test_rows_that_are_not_full_and_a_sample_that_cannot_be_read_stay_grey(tmp_path: Path) -> None:
    write_set(tmp_path, [23])
    manifest = opened(tmp_path)
    flip_bit(tmp_path / "0000.tar", member_offsets(tmp_path / "0000.tar")["000011.png"][1] + 40)
    found = cells(manifest, tmp_path / "sheet.png")
    assert numbers_in(found[0], 23) == [0, 10, 20] + [None] * 7
    assert numbers_in(found[1], 23) == [1, None, 21] + [None] * 7
    assert numbers_in(found[9], 23) == [9, 19] + [None] * 8


def test_without_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"{number:03d}.png", encode(noise(number))) for number in range(34)])
    found = cells(opened(tmp_path), tmp_path / "sheet.png")
    assert numbers_in(found.reshape(-1, 8, 8), 34) == [*range(34), *[None] * 6]
    write_tar(tmp_path / "b.tar", [(f"{number:03d}.png", encode(noise(number))) for number in range(34, 300)])
    numbers = numbers_in(cells(opened(tmp_path), tmp_path / "sheet.png").reshape(-1, 8, 8), 300)
    assert len(numbers) == 100
    assert numbers == sorted(set(numbers))  # pyright: ignore


def test_those_without_a_label_have_the_last_row() -> None:
    assert rows_of(np.array([3, -1, 1, 3])) == [1, 3, -1]
    assert rows_of(np.array([-1, -1])) == []


def test_of_many_classes_some_have_a_row() -> None:
    rows = rows_of(np.arange(1000))
    assert len(rows) == MAX_ROWS
    assert rows == sorted(set(rows))
    assert max(rows) > 900


@pytest.mark.parametrize(("side", "cell"), [(300, 128), (100, 100), (16, 64)])
def test_large_images_are_shrunk_and_mixed_sizes_fitted(tmp_path: Path, side: int, cell: int) -> None:
    colour = np.full((side, side, 3), (200, 10, 30), np.uint8)
    grey = np.full((side // 2, side // 4), 77, np.uint8)
    write_tar(tmp_path / "a.tar", [("a.png", encode(colour)), ("b.png", encode(grey))])
    contact_sheet.write(tmp_path / "sheet.png", opened(tmp_path), np.array([-1, -1]))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (cell + 2 * PADDING, COLUMNS * (cell + PADDING) + PADDING, 3)
    assert (sheet[PADDING:-PADDING, PADDING : PADDING + cell] == (200, 10, 30)).all()
    assert (sheet[PADDING:-PADDING, cell + 2 * PADDING : 2 * (cell + PADDING)] == 77).all()
