"""What the sources of bare pixels have in common: one file, images of one shape in it, a label for each."""

import numpy as np

from distgan.data.decoding import MAX_PIXELS
from distgan.data.packing.items import Item, PixelRange
from distgan.errors import InputError


def items_of(
    path: str, offset: int, shape: tuple[int, ...], labels: np.ndarray | None, shown: str, stride_bytes: int | None = None
) -> list[Item]:
    """An item for each of `shape[0]` images of `shape[1:]` ([H, W] or [H, W, 3]) that lie one after the other from `offset`.

    Raises:
        InputError: there are fewer or more labels than images, one is negative, or the images are too large.
    """
    num_images, image_shape = shape[0], shape[1:]
    if labels is not None and len(labels) != num_images:
        raise InputError(f"SRC holds {num_images} images in {shown}, but {len(labels)} labels; fetch or write it again.")
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 2**31:
        raise InputError(f"SRC holds labels from {labels.min()} to {labels.max()} for {shown}; labels are whole numbers from 0.")
    if not 0 < image_shape[0] * image_shape[1] <= MAX_PIXELS:
        raise InputError(f"SRC holds images of {image_shape[1]}x{image_shape[0]} pixels in {shown}; give 1 to {MAX_PIXELS:,} pixels.")
    stride = stride_bytes or int(np.prod(image_shape))
    values = [None] * num_images if labels is None else labels.tolist()
    return [Item(f"{number:08d}", PixelRange(path, offset + number * stride, image_shape), value) for number, value in enumerate(values)]
