"""The embedded dataset: the 1,797 handwritten digits that ship inside scikit-learn (Alpaydin & Kaynak 1998, UCI), 32x32 grey.

They are packed once, under a lock, into WebDataset shards in the user's cache, and read from there like any other data.
"""

from pathlib import Path

import numpy as np
import platformdirs
from PIL import Image

from distgan.data.writer import Sample, write_shards
from distgan.errors import InputError
from distgan.files import locked
from distgan.png import encode_png

SIZE = 32
SAMPLES_PER_SHARD = 225  # eight shards
VERSION = 1  # of what is written; another version goes to another directory


def ensure_packed() -> Path:
    """The directory of the shards; packs them first if they are not there.

    Raises:
        InputError: the user's cache cannot be written.
    """
    datasets = Path(platformdirs.user_cache_dir("distgan")) / "datasets"
    directory = datasets / f"digits-{SIZE}-v{VERSION}"
    if directory.is_dir():  # the rename that made it was the last thing that packing did
        return directory
    try:
        datasets.mkdir(parents=True, exist_ok=True)
        with locked(datasets / f".{directory.name}.lock"):
            if not directory.is_dir():
                write_shards(_samples(), directory, SAMPLES_PER_SHARD)
    except OSError as error:
        raise InputError(
            f"data.url is 'digits', which is packed into {directory}, but that cannot be written ({error.strerror}); "
            "set XDG_CACHE_HOME to a directory that can."
        ) from None
    return directory


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 32, 32] uint8 (0 is paper, 255 ink) and labels [1797] int64."""
    from sklearn.datasets import load_digits  # a second of import that only packing needs

    pixels, labels = load_digits(return_X_y=True)  # [1797, 64] with values 0 to 16, [1797]
    grey = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    large = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in grey]
    return np.stack([np.asarray(image) for image in large]), labels.astype(np.int64)


def _samples() -> list[Sample]:
    images, labels = load_images()
    return [
        Sample(f"{number:06d}", encode_png(image), int(label)) for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
