"""A picture of some samples: a row per class, where there are labels."""

from pathlib import Path

import numpy as np

from distgan.data.inspection.statistics import by_shard, chosen
from distgan.data.reading.samples import SampleReader
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.manifest import Manifest

COLUMNS = 10
MAX_ROWS = 20
MAX_SIDE = 128  # of an image in pixels
_EMPTY = 128  # grey, as between the images


def rows_of(labels: np.ndarray) -> list[int]:
    """The labels [N] of which each has a row, ascending, NO_LABEL last; of many classes MAX_ROWS, spread evenly. Nothing without labels."""
    present = np.unique(labels).tolist()
    if present == [NO_LABEL]:
        return []
    present = [label for label in present if label != NO_LABEL] + [label for label in present if label == NO_LABEL]
    return [present[number * len(present) // MAX_ROWS] for number in range(MAX_ROWS)] if len(present) > MAX_ROWS else present


def write(path: Path, manifest: Manifest, labels: np.ndarray) -> None:
    """Draw COLUMNS samples of each of `rows_of(labels)`, spread evenly over the set; without labels, COLUMNS rows of any samples.

    What cannot be read stays grey.

    Raises:
        OSError: the file cannot be written.
    """
    import torch  # seconds of import that nothing else here needs

    from distgan.images import save_grid

    of_rows = [np.flatnonzero(labels == label) for label in rows_of(labels)]
    numbers = [own[chosen(len(own), COLUMNS)] for own in of_rows] or [chosen(len(labels), COLUMNS * COLUMNS)]
    cells = np.concatenate([row * COLUMNS + np.arange(len(own)) for row, own in enumerate(numbers)])
    images = _read(manifest, np.concatenate(numbers))
    sheet = np.full((-(-(int(cells.max()) + 1) // COLUMNS) * COLUMNS, *images.shape[1:]), _EMPTY, np.uint8)
    sheet[cells] = images
    save_grid(torch.from_numpy(sheet).permute(0, 3, 1, 2), path, COLUMNS)


def _read(manifest: Manifest, numbers: np.ndarray) -> np.ndarray:
    """The samples with these numbers -> [n, side, side, C] uint8."""
    order = np.argsort(numbers)
    places = by_shard(numbers[order], [shard.record.num_samples for shard in manifest.shards])
    shards = np.repeat(np.arange(len(places)), [len(own) for own in places])
    side = min(MAX_SIDE, max(shard.record.max_side for shard in manifest.shards))
    images = np.empty((len(numbers), side, side, manifest.channels), np.uint8)
    problems, _ = SampleReader(manifest.shards).read(shards, np.concatenate(places), images, np.empty(len(numbers), np.int64))
    images[[problem.row for problem in problems]] = _EMPTY
    in_order_of_numbers = np.empty_like(images)
    in_order_of_numbers[order] = images
    return in_order_of_numbers
