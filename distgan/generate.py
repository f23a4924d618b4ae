"""Make images with the generator (its moving average) of a run's newest checkpoint.

python -m distgan.generate --run runs/a --num-images 64 --seed 0 --out grid.png
python -m distgan.generate --run runs/a --num-images 50000 --seed 0 --format shards --out fakes
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from distgan import checkpoint
from distgan.arguments import Parser
from distgan.build import build_networks, grid_labels
from distgan.cli import read_yaml, validate
from distgan.data.writer import Sample, write_shards
from distgan.errors import InputError
from distgan.images import sample, save_grid, to_png
from distgan.models.base import Generator, ImageShape
from distgan.process import EXIT_DONE, refuse
from distgan.randomness import Randomness
from distgan.run_directory import RunDirectory

SAMPLES_PER_SHARD = 10_000
CHUNK_SIZE = 256  # images made at once


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        _generate(_parser().parse_args(arguments))
        return EXIT_DONE
    except InputError as error:
        return refuse(error, "distgan.generate")


def load_generator(run: Path, device: torch.device) -> tuple[Generator, int | None]:
    """The averaged generator of a run's newest intact checkpoint and its number of classes (None: unconditional).

    Raises:
        InputError: there is no run or no intact checkpoint.
    """
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise InputError(f"--run is {str(run)!r}, which is not a run (it has no config.yaml); give the run.dir of a training run.")
    config = validate(read_yaml(directory.config))
    step, warnings = checkpoint.newest_intact(directory.checkpoints)
    for warning in warnings:
        print(f"warning: {warning}; it is passed over.", file=sys.stderr)
    if step is None:
        raise InputError(f"--run is {str(run)!r}, which has no intact checkpoint yet; train it further first.")
    state = checkpoint.read_state(directory.checkpoints, step)
    generator, _ = build_networks(config, ImageShape(**state["images"]), state["num_classes"])
    generator.load_state_dict(checkpoint.load_tensors(directory.checkpoints, step, "ema"))
    return generator.to(device).eval(), state["num_classes"]


def _generate(options: argparse.Namespace) -> None:
    if options.num_images < 1:
        raise InputError(f"--num-images is {options.num_images}; give at least 1.")
    if options.format != "grid" and options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise InputError(f"--out is {str(options.out)!r}, which exists already; give a new directory.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator, num_classes = load_generator(options.run, device)
    labels = _labels(options, num_classes)
    latents = Randomness(options.seed).normal("generate.latents", 0, options.num_images, generator.latent_size)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if options.format == "grid":
            save_grid(sample(generator, latents, labels), options.out)
        elif options.format == "folder":
            _write_folder(_samples(generator, latents, labels), options.out)
        else:
            write_shards(_samples(generator, latents, labels), options.out, SAMPLES_PER_SHARD)
    except OSError as error:
        raise InputError(f"--out is {str(options.out)!r}, which cannot be written ({error.strerror}); give another path.") from None
    print(options.out)


def _samples(generator: Generator, latents: torch.Tensor, labels: torch.Tensor | None) -> Iterator[Sample]:
    """Make the images chunk by chunk, so that any number of them fits in memory."""
    for start in range(0, len(latents), CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)
        images = sample(generator, latents[part], None if labels is None else labels[part])
        for number, png in enumerate(to_png(images), start):
            yield Sample(f"{number:08d}", png, None if labels is None else int(labels[number]))


def _write_folder(samples: Iterator[Sample], out: Path) -> None:
    for item in samples:
        folder = out if item.label is None else out / str(item.label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{item.key}.png").write_bytes(item.png)


def _labels(options: argparse.Namespace, num_classes: int | None) -> torch.Tensor | None:
    if options.label is None:
        return grid_labels(options.num_images, num_classes)
    if num_classes is None or not 0 <= options.label < num_classes:
        known = "the run is unconditional; leave it out" if num_classes is None else f"the run has classes 0 to {num_classes - 1}"
        raise InputError(f"--label is {options.label}, but {known}.")
    return torch.full((options.num_images,), options.label)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="distgan.generate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="directory of a training run")
    parser.add_argument("--num-images", type=int, default=64, metavar="N", help="number of images (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise; the same seed gives the same images (default: 0)")
    parser.add_argument("--label", type=int, metavar="CLASS", help="this class only (conditional runs); default: each class in turn")
    parser.add_argument(
        "--format",
        choices=("grid", "folder", "shards"),
        default="grid",
        help="grid: one PNG, ten images a row; folder: a PNG each, in a folder per class if conditional; shards: WebDataset tars",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the PNG of a grid, or the new directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
