"""The training loop, nothing else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import distgan
from distgan import checkpoint
from distgan.batch import Batch, BatchLayout
from distgan.checkpoint import Checkpoint
from distgan.data.reader import Reader
from distgan.distributed import AnyRank, World
from distgan.ema import Ema
from distgan.engine.base import Engine, EngineState, StepResult
from distgan.images import sample, save_grid, to_float
from distgan.metrics.prometheus import Exporter
from distgan.metrics.reporter import Reporter
from distgan.models.base import ImageShape
from distgan.phases import DiscriminatorPhase, GeneratorPhase, frozen
from distgan.randomness import Randomness
from distgan.run_directory import RunDirectory
from distgan.state import TrainState


@dataclass(frozen=True)
class Schedule:
    """When what happens, in images; `keep_checkpoints` is a count."""

    total_images: float
    log_every_images: float
    samples_every_images: float
    checkpoint_every_images: float
    keep_checkpoints: int


@dataclass
class Trainer:
    """Everything a run is made of; `build.py` puts it together."""

    world: World
    schedule: Schedule
    state: TrainState
    layout: BatchLayout
    images: ImageShape
    num_classes: int | None  # None: the model is unconditional
    randomness: Randomness
    reader: Reader
    manifest_hash: str
    discriminator_phase: DiscriminatorPhase
    generator_phase: GeneratorPhase
    discriminator_engine: Engine
    generator_engine: Engine
    ema: Ema
    grid_latents: torch.Tensor
    grid_labels: torch.Tensor | None
    directory: RunDirectory
    reporter: Reporter
    exporter: Exporter

    _saved_iteration: int | None = None  # the iteration of the newest checkpoint

    def fit(self, stop_requested: Callable[[], bool]) -> bool:
        """Train to the end, or until a rank's `stop_requested()`; whether the end was reached. Saves either way."""
        any_rank = AnyRank(self.world)
        stopped = False
        while self.state.num_images < self.schedule.total_images and not stopped:
            begin, waited = time.perf_counter(), self.reader.wait_seconds
            self.iterate()
            seconds = time.perf_counter() - begin
            self.state.train_seconds += seconds
            self.reporter.iteration(seconds, self.reader.wait_seconds - waited)
            stopped = any_rank(stop_requested())
            self._on_schedule()
        any_rank.close()
        self._finish()
        return self.state.num_images >= self.schedule.total_images

    def iterate(self) -> None:
        """One iteration: the discriminator's steps, the generator's, the average's."""
        batches: list[Batch] = []
        with self._timed("discriminator"):
            for number in range(self.state.discriminator_steps):
                batches = self._discriminator_step(self.state.discriminator_step + number)
        with self._timed("generator"):
            self._generator_step(batches)
        self.state.iteration += 1
        self.ema.update(self.generator_phase.network, self.state.num_images, self.state.images_per_iteration)

    def _discriminator_step(self, step: int) -> list[Batch]:
        phase, engine = self.discriminator_phase, self.discriminator_engine
        batches = [phase.with_fakes(self._next_batch(step, micro_batch)) for micro_batch in range(self.layout.accumulation_steps)]
        calls = [(part, batch) for part in phase.parts(step) for batch in batches]
        for number, (part, batch) in enumerate(calls):
            self.reporter.add(engine.backward(part, batch, last=number == len(calls) - 1))
        self._count("discriminator", engine.step())
        return batches

    def _generator_step(self, batches: list[Batch]) -> None:
        engine = self.generator_engine
        with frozen(self.discriminator_phase.network):
            for micro_batch, batch in enumerate(batches):
                latents, labels = self._draw("generator", self.state.iteration, micro_batch)
                batch = replace(batch, latents=latents, fake_labels=labels, fake_images=None)
                self.reporter.add(engine.backward("loss", batch, last=micro_batch == len(batches) - 1))
        self._count("generator", engine.step())

    def _next_batch(self, step: int, micro_batch: int) -> Batch:
        real, device = next(self.reader), self.world.device
        images = to_float(real.images.to(device, non_blocking=True))
        labels = None if self.num_classes is None else real.labels.to(device, non_blocking=True)
        interpolation = self.randomness.uniform("interpolation", step, self.layout.batch_size)[self.layout.positions(micro_batch)]
        return Batch(images, labels, *self._draw("discriminator", step, micro_batch), interpolation.to(device))

    def _draw(self, phase: str, index: int, micro_batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents and labels for fakes: drawn for the global batch, of which this rank keeps its slice."""
        positions, size, device = self.layout.positions(micro_batch), self.layout.batch_size, self.world.device
        latents = self.randomness.normal(f"{phase}.latents", index, size, self.generator_phase.network.latent_size)
        labels = None
        if self.num_classes is not None:
            labels = self.randomness.integers(f"{phase}.labels", index, size, self.num_classes)[positions].to(device)
        return latents[positions].to(device), labels

    def _count(self, network: str, result: StepResult) -> None:
        self.reporter.add({f"{network}_gradient_norm": result.gradient_norm, f"{network}_skipped_share": result.skipped})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.reporter.phase(phase, time.perf_counter() - begin)

    def _on_schedule(self) -> None:
        if self.state.just_crossed(self.schedule.log_every_images):
            self._log()
        if self.state.just_crossed(self.schedule.samples_every_images):
            self._save_samples()
        if self.state.just_crossed(self.schedule.checkpoint_every_images):
            try:
                self._save_checkpoint()
            except OSError as error:  # a full disk may have room again at the next one
                self.reporter.say(f"warning: the checkpoint of iteration {self.state.iteration} was not saved ({error}); the run goes on.")

    def _finish(self) -> None:
        """A log line, a grid and a checkpoint always mark the end of a sitting."""
        self._log()
        self._save_samples()
        self._save_checkpoint()

    def _log(self) -> None:
        means = self.reporter.interval()
        for network in ("discriminator", "generator"):
            if means.get(f"{network}_skipped_share", 0) == 1:
                raise FloatingPointError(
                    f"Every step of the {network} since the last log line had a gradient that was not finite; lower "
                    f"{network}_optimizer.learning_rate or penalty.weight and go on from the last checkpoint."
                )

    def _save_samples(self) -> None:
        if self.world.is_main:
            for name, generator in (("raw", self.generator_phase.network), ("ema", self.ema.network)):
                save_grid(sample(generator, self.grid_latents, self.grid_labels), self.grid_path(name))

    def grid_path(self, name: str) -> Path:
        """Where the grid of this moment is kept; `name` is 'raw' or 'ema'."""
        return self.directory.samples / f"kimg-{self.state.num_images / 1000:09.3f}-{name}.png"

    def _save_checkpoint(self) -> None:
        """Save on rank 0. Collective. Nothing is done if this iteration is already saved.

        Raises:
            OSError: it could not be written; older checkpoints are untouched.
        """
        engines = {"discriminator": self.discriminator_engine, "generator": self.generator_engine}
        states = {name: engine.state() for name, engine in engines.items()}
        if not self.world.is_main or self.state.iteration == self._saved_iteration:
            return
        tensors = {"ema": self.ema.network.state_dict()}
        for name, state in states.items():
            tensors |= {name: state.network, f"{name}_optimizer": state.optimizer}
        state = {
            "iteration": self.state.iteration,
            "num_images": self.state.num_images,
            "train_seconds": self.state.train_seconds,
            "data_position": self.state.discriminator_step * self.layout.batch_size,
            "manifest_hash": self.manifest_hash,
            "images": asdict(self.images),
            "num_classes": self.num_classes,
            "seed": self.randomness.seed,
            "num_ranks": self.world.size,
            "versions": {"distgan": distgan.__version__, "torch": torch.__version__},
        }
        try:
            with self.exporter.checkpoint_seconds.time():
                checkpoint.save(
                    self.directory.checkpoints, self.state.iteration, Checkpoint(tensors, state), self.schedule.keep_checkpoints
                )
        except OSError:
            self.exporter.checkpoint_failures.inc()
            raise
        self._saved_iteration = self.state.iteration

    def restore(self, saved: Checkpoint) -> None:
        """Put back what `_save_checkpoint` saved, on any number of ranks. Collective."""
        for name, engine in (("discriminator", self.discriminator_engine), ("generator", self.generator_engine)):
            engine.load_state(EngineState(saved.tensors[name], saved.tensors.get(f"{name}_optimizer", {})))
        self.ema.network.load_state_dict(saved.tensors["ema"])
        self._saved_iteration = self.state.iteration
