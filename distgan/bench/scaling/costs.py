"""What comes beside the iterations on one rank: noise, checkpoints, pictures, and starting again."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distgan import checkpoint
from distgan.bench.engines.contestants import trainer_under
from distgan.bench.engines.report import BASELINE
from distgan.bench.gradients import gradient_moments
from distgan.bench.scaling.report import Network
from distgan.build import grid_labels
from distgan.cli import to_yaml
from distgan.config import TrainConfig
from distgan.distributed import World
from distgan.engine.base import Engine
from distgan.images import sample, save_grid
from distgan.metrics.traffic import Traffic
from distgan.phases import Phase
from distgan.randomness import Randomness
from distgan.run_directory import RunDirectory
from distgan.trainer import Trainer

_SAMPLES = 5
_DRAWN_IMAGES = 4096  # a batch whose drawing takes long beside calling


@dataclass(frozen=True)
class OneRank:
    """What was measured; see `report.Costs` and `report.NetworkCount`."""

    run_directory: Path  # of a run with a checkpoint
    num_images: int  # where it stands
    sizes: dict[Network, tuple[int, int, int]]  # parameters, tensors, bytes of buffers
    backward_seconds: dict[Network, float]  # from the first gradient of a step's last backward to the last
    draw_seconds_per_image: float
    checkpoint_bytes: int
    checkpoint_tensor_bytes: int
    checkpoint_seconds: float
    grid_seconds: float


def measure(world: World, settings: dict[str, Any], num_sample_images: int, directory: Path) -> OneRank:
    """All but starting, with a new run, on one rank."""
    with trainer_under(BASELINE, settings, world, directory, Traffic()) as trainer:
        trainer.iterate()
        run_directory = RunDirectory(trainer.samples_directory.parent)
        checkpoint_seconds = []
        for _ in range(_SAMPLES):
            trainer.iterate()  # or there is nothing to save
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            checkpoint_seconds.append(_seconds(trainer.saver.save))
        (step, *_) = reversed(checkpoint.steps(run_directory.checkpoints))
        saved = checkpoint.load(run_directory.checkpoints, step)
        files = (run_directory.checkpoints / f"step-{step:08d}").iterdir()
        return OneRank(
            run_directory=run_directory.path,
            num_images=trainer.state.num_images,
            sizes={"discriminator": _sizes(trainer.discriminator_phase.network), "generator": _sizes(trainer.generator_phase.network)},
            backward_seconds={
                "discriminator": _backward_seconds(trainer, trainer.discriminator_phase, trainer.discriminator_engine),
                "generator": _backward_seconds(trainer, trainer.generator_phase, trainer.generator_engine),
            },
            draw_seconds_per_image=_draw_seconds(trainer),
            checkpoint_bytes=sum(file.stat().st_size for file in files),
            checkpoint_tensor_bytes=sum(value.nbytes for tensors in saved.tensors.values() for value in tensors.values()),
            checkpoint_seconds=statistics.median(checkpoint_seconds),
            grid_seconds=_grid_seconds(trainer, num_sample_images, saved.state["num_classes"], directory / "grid.png"),
        )


def start_seconds(config: TrainConfig, one: OneRank, directory: Path, num_threads: int) -> float:
    """From the start of `python -m distgan.train`, resuming, until its first iteration is in the log."""
    settings = directory / "start.yaml"
    settings.write_text(to_yaml(config))
    log = RunDirectory(one.run_directory).log
    before = log.stat().st_size if log.exists() else 0
    total_kimg = (one.num_images + config.train.batch_size * config.train.discriminator_steps) / 1000
    options = {"run.dir": one.run_directory, "train.total_kimg": total_kimg, "metrics.port": 0, "metrics.log_every_kimg": 1e-3}
    flags = [word for field, value in options.items() for word in (f"--{field}", str(value))]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "distgan.train", "--config", str(settings), *flags],
        env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not _has_iteration(log, before):
            if process.poll() is not None:
                raise RuntimeError(f"distgan.train ended with exit code {process.returncode}: {process.communicate()[1]}")
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
    finally:
        process.communicate()
    return seconds


def _has_iteration(log: Path, begin: int) -> bool:
    if not log.exists():
        return False
    with open(log, encoding="utf-8") as file:
        file.seek(begin)
        return any("images_per_second" in json.loads(line) for line in file if line.endswith("\n"))


def _sizes(network: torch.nn.Module) -> tuple[int, int, int]:
    parameters = list(network.parameters())
    return sum(one.numel() for one in parameters), len(parameters), sum(buffer.nbytes for buffer in network.buffers())


def _draw_seconds(trainer: Trainer) -> float:
    """Of an image's noise. (Labels are one number beside it.)"""
    randomness, latent_size = Randomness(0), trainer.generator_phase.network.latent_size
    seconds = [
        _seconds(lambda number=number: randomness.normal("bench", number, _DRAWN_IMAGES, latent_size)) for number in range(_SAMPLES + 1)
    ]
    return statistics.median(seconds[1:]) / _DRAWN_IMAGES


def _grid_seconds(trainer: Trainer, count: int, num_classes: int | None, path: Path) -> float:
    """Of so many pictures by both generators, as the loop draws them."""
    latents = Randomness(0).normal("bench", 0, count, trainer.generator_phase.network.latent_size)
    labels = grid_labels(count, num_classes)

    def draw() -> None:
        for generator in (trainer.generator_phase.network, trainer.ema.network):
            save_grid(sample(generator, latents, labels), path)

    return statistics.median(_seconds(draw) for _ in range(_SAMPLES))


def _backward_seconds(trainer: Trainer, phase: Phase, engine: Engine) -> float:
    """From the first gradient of a step's last backward to the last."""
    found = []
    with gradient_moments(phase, engine) as moments:
        for _ in range(_SAMPLES):
            trainer.iterate()
            seconds = [moment.seconds() for moment in moments]
            found.append(max(seconds) - min(seconds))
    return statistics.median(found)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
