"""Images -> WebDataset tar shards, written with webdataset's own writer: the same bytes every time."""

import io
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.files import sync_directory


@dataclass(frozen=True)
class Sample:
    """An image and its label (None: no label)."""

    key: str
    png: bytes
    label: int | None


def encode_png(pixels: np.ndarray) -> bytes:
    """[H, W] or [H, W, 3] uint8 -> PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def write_shards(samples: Iterable[Sample], directory: Path, samples_per_shard: int) -> None:
    """Write `directory`/000000.tar, ... aside and rename the whole directory; it must not exist, or be empty."""
    from webdataset.writer import TarWriter  # a second of import that only packing needs

    aside = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that had this number before us
    aside.mkdir(parents=True)
    try:
        for shard, group in groupby(enumerate(samples), key=lambda item: item[0] // samples_per_shard):
            with open(aside / f"{shard:06d}.tar", "wb") as file:
                with TarWriter(file, mtime=0) as writer:
                    for _, sample in group:
                        label = {} if sample.label is None else {"cls": str(sample.label).encode()}
                        writer.write({"__key__": sample.key, "png": sample.png} | label)
                file.flush()
                os.fsync(file.fileno())
        sync_directory(aside)
        os.rename(aside, directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
