"""`stats`: tell what a set of shards holds, in words, and (with --out) as stats.json and a sheet of samples."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from distgan.data.inspection import contact_sheet, text
from distgan.data.inspection.classes import Class, count, read_names
from distgan.data.inspection.findings import Finding, counted, of_indexing, printable
from distgan.data.inspection.indexing import labels, places, sides
from distgan.data.inspection.statistics import Statistics, measure
from distgan.data.shards import manifest, urls
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.manifest import Manifest
from distgan.errors import InputError
from distgan.files import write_atomically
from distgan.process import EXIT_DONE

STATS_FILE = "stats.json"
SHEET_FILE = "contact-sheet.png"
MAX_SIZES = 100  # in stats.json


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        InputError: bad usage, or nothing can be read.
    """
    if options.max_samples < 1:
        raise InputError(f"--max-samples is {options.max_samples}; give the number of images to decode at most, 1 or more.")
    urls.named_locally(options.url)  # refuses what is elsewhere
    paths = urls.resolve(options.url)
    if options.out:
        _make(options.out)
    opened = manifest.index_shards(paths)
    if not opened.shards:
        raise InputError([f"{shard.location} {shard.record.damages[0].text}." for shard in opened.unreadable[:5]])
    names = read_names(dict.fromkeys(shard.path.parent for shard in opened.shards))
    statistics = measure(opened, options.max_samples)
    classes = count(statistics.labels, names)
    damages = of_indexing(opened) + statistics.pixels.damaged
    print("\n".join(_text(options.url, opened, statistics, classes, damages)))
    if options.out:
        _write(options.out, opened, statistics, classes, damages)
    return EXIT_DONE


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(directory, error) from None


def _not_written(directory: Path, error: OSError) -> InputError:
    return InputError(f"--out is {str(directory)!r}, which cannot be written ({error.strerror}); give another directory.")


def _text(url: str, opened: Manifest, statistics: Statistics, classes: list[Class], damages: list[Finding]) -> list[str]:
    shards = opened.shards
    pixels = statistics.pixels
    size = tqdm.format_sizeof(sum(shard.record.bytes for shard in shards), "B")
    by_channels = [("colour" if number == 3 else "grey", count) for number, count in statistics.channels.most_common()]
    formats = text.kinds(pixels.formats.most_common()) if pixels.num_images else "unknown"
    facts = [
        ("samples", f"{opened.num_samples:,} in {counted(len(shards), 'shard')} of {size}"),
        ("labels", labels(opened)),
        ("sizes", sides(opened)),
        ("channels", text.kinds(by_channels)),
        ("formats", formats if pixels.num_images == opened.num_samples else f"{formats} (of {pixels.num_images:,} that were decoded)"),
        ("decoders", text.kinds(statistics.decoders.most_common())),
        ("damaged", f"{len(damages):,} places; the index command lists them" if damages else "nothing"),
        ("hash", opened.hash),
        ("index", printable(places(opened))),
    ]
    num_unlabelled = int((statistics.labels == NO_LABEL).sum())
    lines = [printable(url), *(f"  {line}" for line in text.pairs(facts))]
    if classes:
        lines += text.section("Samples of each class", text.of_classes(classes, num_unlabelled))
    if len(statistics.sizes) > 1:
        lines += text.section("Image sizes (width x height)", text.of_sizes(statistics))
    lines += text.section("Bytes of an image as it is stored", text.of_bytes(statistics))
    if pixels.num_images:
        title = f"Pixels in [0, 1], of {counted(pixels.num_images, 'image')} spread over the set"
        lines += text.section(title, text.of_pixels(statistics))
    return lines


def _write(directory: Path, opened: Manifest, statistics: Statistics, classes: list[Class], damages: list[Finding]) -> None:
    content = json.dumps(_values(opened, statistics, classes, damages), indent=2, allow_nan=False) + "\n"
    try:
        write_atomically(directory / STATS_FILE, content.encode())
        contact_sheet.write(directory / SHEET_FILE, opened, statistics.labels)
    except OSError as error:
        raise _not_written(directory, error) from None
    print("", directory / STATS_FILE, directory / SHEET_FILE, sep="\n")


def _values(opened: Manifest, statistics: Statistics, classes: list[Class], damages: list[Finding]) -> dict[str, Any]:
    pixels = statistics.pixels
    sizes = [{"width": width, "height": height, "num_samples": n} for (width, height), n in statistics.sizes.most_common(MAX_SIZES)]
    return {
        "hash": opened.hash,
        "num_samples": opened.num_samples,
        "num_shards": len(opened.shards),
        "bytes": sum(shard.record.bytes for shard in opened.shards),
        "num_unlabelled": int((statistics.labels == NO_LABEL).sum()),
        "classes": [asdict(one) for one in classes],
        "image_sizes": {
            "num_distinct": len(statistics.sizes),
            "commonest": sizes,
            "quantiles": {side: _by_share(values) for side, values in text.quantiles_of_sizes(statistics).items()},
        },
        "bytes_per_image": {
            "mean": float(statistics.bytes.mean()),
            "quantiles": _by_share(text.quantiles_of_bytes(statistics)),
        },
        "channels": {str(number): count for number, count in sorted(statistics.channels.items())},
        "decoders": dict(statistics.decoders),
        "pixels": {
            "num_images": pixels.num_images,
            "formats": dict(pixels.formats),
            "channels": list(text.CHANNELS[opened.channels]),
            "mean": pixels.mean() if pixels.num_images else None,
            "std": pixels.std() if pixels.num_images else None,
        },
        "contact_sheet_rows": contact_sheet.rows_of(statistics.labels),
        "damages": [{"shard": str(one.path), "key": one.key, "reason": one.reason} for one in damages],
    }


def _by_share(quantiles: list[float]) -> dict[str, float]:
    return {f"{share:g}": value for share, value in zip(text.QUANTILES, quantiles, strict=True)}
