"""The options of `pack`: how they are given, which of them contradict each other, and which of them decide the bytes."""

import argparse
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib

from distgan.data.packing.items import PixelRange, Source
from distgan.data.packing.sources import KINDS
from distgan.data.packing.transform import FILTERS, MAX_RESOLUTION, Recipe
from distgan.errors import InputError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

DESCRIPTION = """Pack images into WebDataset shards, ready to train on.

SRC is a folder of images (the folders at its top are the classes; without folders there are no labels), a .zip, .tar or
.tar.gz of one (a folder that everything lies in is none of its classes), MNIST's IDX files, CIFAR's binary files, a .npz,
WebDataset shards (a directory, a tar, a pattern), or the word `digits`. In a folder or an archive of one, a file of labels
at the top rules instead of folders:
  labels.csv   name,label           a header is one that has a column `label`
  labels.json  {"name": label} or [["name", label], ...] or StyleGAN's dataset.json
where labels are whole numbers from 0, or names of classes.

What was packed is the same to the byte with any number of workers. A pack that was stopped or killed goes on with the same command."""


@dataclass(frozen=True)
class PackOptions:
    """What the command line says."""

    src: str
    dst: Path
    source: str | None
    resolution: int | None
    crop: str | None
    filter: str | None
    channels: int | None
    encoding: str | None
    quality: int | None
    shard_bytes: int
    shard_samples: int | None
    labels: Path | None
    test_share: float | None
    split: str | None
    cifar_labels: str | None
    order: str
    workers: int
    on_error: str

    def deciding(self) -> dict[str, object]:
        """The options that decide what is written, as JSON knows them."""
        decided_elsewhere = ("src", "dst", "source", "labels", "workers", "on_error")
        return {name: value for name, value in asdict(self).items() if name not in decided_elsewhere}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `pack`; its names are the fields of `PackOptions`."""
    parser.add_argument("src", metavar="SRC", help="where the images are")
    parser.add_argument("dst", metavar="DST", type=Path, help="the new directory of the shards")
    parser.add_argument("--source", choices=KINDS, help="what SRC is (default: found out)")
    parser.add_argument("--resolution", type=int, metavar="N", help="make every image N x N pixels")
    parser.add_argument(
        "--crop",
        choices=("center", "pad", "none"),
        help="how: scale to fill and crop, fit and pad with black, or leave out what has another size (default: center)",
    )
    parser.add_argument("--filter", choices=tuple(FILTERS), help="how it is scaled, always antialiased (default: lanczos)")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="make every image grey or coloured (default: as it is)")
    parser.add_argument(
        "--encoding",
        choices=("keep", "png", "jpeg", "webp", "raw"),
        help="keep: the very bytes; raw: an array of uint8 (default: keep if nothing changes and training reads the format, else png)",
    )
    parser.add_argument("--quality", type=int, metavar="Q", help="of jpeg and webp, 1 to 100 (default: 95)")
    parser.add_argument(
        "--shard-bytes", type=_size, default=256 * 2**20, metavar="SIZE", help="limit of a shard: 64MB, 1GiB (default: 256MiB)"
    )
    parser.add_argument("--shard-samples", type=int, metavar="N", help="a further limit of a shard")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE.json",
        help='new labels: {"cat": 0, "7": 1} by class name or old label; other classes are left out',
    )
    parser.add_argument(
        "--test-share", type=float, metavar="SHARE", help="put this share of each class into DST/test, the rest into DST/train"
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "both"),
        help="parts of a source that has a test part; both: DST/train and DST/test (default: train)",
    )
    parser.add_argument("--cifar-labels", choices=("fine", "coarse"), help="which labels of CIFAR-100 (default: fine)")
    parser.add_argument(
        "--order",
        choices=("shuffled", "name"),
        default="shuffled",
        help="shuffled: by a hash of the key, so that every shard holds all classes (default)",
    )
    parser.add_argument("--workers", type=int, default=joblib.cpu_count(), metavar="N", help="processes (default: all cores)")
    parser.add_argument(
        "--on-error", choices=("skip", "fail"), default="skip", help="skip: leave out what cannot be read, and list it (default)"
    )


def check(options: PackOptions) -> None:
    """Raise InputError if an option is out of range or contradicts another."""
    problems = []
    for name, value, low, high in [
        ("resolution", options.resolution, 1, MAX_RESOLUTION),
        ("quality", options.quality, 1, 100),
        ("shard-bytes", options.shard_bytes, 1, 2**63),
        ("shard-samples", options.shard_samples, 1, 2**63),
        ("workers", options.workers, 1, 2**15),
    ]:
        if value is not None and not low <= value <= high:
            problems.append(f"--{name} is {value}; give {low} to {high}.")
    if options.test_share is not None and not 0 < options.test_share < 1:
        problems.append(f"--test-share is {options.test_share}; give a share between 0 and 1, such as 0.1.")
    if options.test_share is not None and options.split in ("test", "both"):
        problems.append(f"--test-share is given and --split is {options.split!r}, which both make a test part; leave one of them out.")
    changes = [name for name in ("resolution", "channels", "quality") if getattr(options, name) is not None]
    if options.encoding == "keep" and changes:
        problems.append(f"--encoding is 'keep', which leaves every byte as it is, but --{changes[0]} changes it; leave one of them out.")
    for name in ("crop", "filter"):
        if getattr(options, name) is not None and options.resolution is None:
            problems.append(
                f"--{name} is {getattr(options, name)!r}, but nothing is scaled without --resolution; give it or leave both out."
            )
    if options.crop == "none" and options.filter is not None:
        problems.append(f"--filter is {options.filter!r}, but --crop none scales nothing; leave one of them out.")
    if options.quality is not None and options.encoding not in ("jpeg", "webp", "keep"):
        problems.append(f"--quality is {options.quality}, but only jpeg and webp have one; add --encoding jpeg or leave it out.")
    if options.encoding == "webp" and options.channels == 1:
        problems.append("--channels is 1, but WebP knows no grey; take --encoding png or jpeg.")
    if problems:
        raise InputError(problems)


def recipe_of(options: PackOptions, source: Source) -> Recipe:
    """What is done to each image; raises InputError if bytes are to be kept that are no image files."""
    is_pixels = any(isinstance(item.place, PixelRange) for items in source.parts.values() for item in items[:1])
    if is_pixels and options.encoding == "keep":
        raise InputError(f"--encoding is 'keep', but SRC ({source.kind}) holds pixels and no image files; take png or raw.")
    changes = any(value is not None for value in (options.encoding, options.resolution, options.channels))
    return Recipe(
        keep=options.encoding == "keep" or not changes,
        encoding=None if options.encoding == "keep" else options.encoding or "png",
        resolution=options.resolution,
        crop=options.crop or "center",
        filter=options.filter or "lanczos",
        channels=options.channels,
        quality=options.quality or 95,
    )


def _size(text: str) -> int:
    """'64MB' -> 64,000,000, '256MiB' -> 2**28, '1000' -> 1000."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 64MB, 256MiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])
