"""The training loop, nothing else."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from distgan.batch import Batch
from distgan.data.reading.skips import SkipLedger
from distgan.distributed import AnyRank, World
from distgan.ema import Ema
from distgan.engine.base import Engine
from distgan.feed import Feed
from distgan.images import sample, save_grid
from distgan.metrics.reporter import Reporter
from distgan.phases import DiscriminatorPhase, GeneratorPhase, frozen
from distgan.saver import Saver
from distgan.state import TrainState

MAX_SKIPPED_STEPS = 20  # in a row: fp16's loss scale starts at 2^16 and is halved at each


@dataclass(frozen=True)
class Schedule:
    """When what happens, in images."""

    total_images: float
    log_every_images: float
    samples_every_images: float
    checkpoint_every_images: float


@dataclass
class Trainer:
    """Everything a run is made of; `build.py` puts it together."""

    world: World
    schedule: Schedule
    state: TrainState
    feed: Feed
    discriminator_phase: DiscriminatorPhase
    generator_phase: GeneratorPhase
    discriminator_engine: Engine
    generator_engine: Engine
    ema: Ema
    grid_latents: torch.Tensor
    grid_labels: torch.Tensor | None
    samples_directory: Path
    saver: Saver
    skips: SkipLedger
    reporter: Reporter

    def __post_init__(self) -> None:
        self._skipped_in_a_row = {name: torch.zeros((), device=self.world.device) for name in ("discriminator", "generator")}

    def fit(self, stop_requested: Callable[[], bool]) -> bool:
        """Train to the end, or until a rank's `stop_requested()`; whether the end was reached. Saves either way."""
        any_rank = AnyRank(self.world)
        stopped = False
        while self.state.num_images < self.schedule.total_images and not stopped:
            begin = time.perf_counter()
            with self.reporter.iterating():
                self.iterate()
            seconds = time.perf_counter() - begin
            self.state.train_seconds += seconds
            self.reporter.iteration(seconds, self.feed.reader.take_statistics())
            stopped = any_rank(stop_requested())
            self._on_schedule()
        any_rank.close()
        self._finish()
        return self.state.num_images >= self.schedule.total_images

    def iterate(self) -> None:
        """One iteration: the discriminator's steps, the generator's, the average's."""
        batches: list[Batch] = []
        for number in range(self.state.discriminator_steps):
            batches = self._discriminator_step(self.state.discriminator_step + number)
        self._generator_step(batches)
        self.state.iteration += 1
        with self.reporter.phase("average"), self.generator_engine.whole():
            self.ema.update(self.generator_phase.network, self.state.num_images, self.state.images_per_iteration)

    def _discriminator_step(self, step: int) -> list[Batch]:
        phase, engine = self.discriminator_phase, self.discriminator_engine
        batches = self.feed.for_discriminator(step)  # may wait for data: of no phase
        with self.reporter.phase("discriminator"):
            with self.generator_engine.whole():
                batches = [self._with_fakes(batch) for batch in batches]
            phase.begin_step()
            self._backward("discriminator", engine, [(part, batch) for part in phase.parts(step) for batch in batches])
            self._update("discriminator", engine)
        return batches

    def _with_fakes(self, batch: Batch) -> Batch:
        with self.reporter.call("fakes", batch.latents.shape):
            return self.discriminator_phase.with_fakes(batch)

    def _generator_step(self, batches: list[Batch]) -> None:
        engine = self.generator_engine
        batches = self.feed.for_generator(self.state.iteration, batches)
        with self.reporter.phase("generator"):
            self.generator_phase.begin_step()
            with self.discriminator_engine.whole(), frozen(self.discriminator_phase.network):
                self._backward("generator", engine, [("loss", batch) for batch in batches])
            self._update("generator", engine)

    def _backward(self, network: str, engine: Engine, calls: list[tuple[str, Batch]]) -> None:
        """Each call's part of the network's phase, forward and backward on its micro-batch."""
        for number, (part, batch) in enumerate(calls):
            first = number == 0  # where spectral norms iterate
            with self.reporter.call(network, part, first, batch.real_images.shape, batch.latents.shape):
                statistics = engine.backward(part, batch, last=number == len(calls) - 1)
            self.reporter.add(statistics)

    def _update(self, network: str, engine: Engine) -> None:
        result = engine.step()
        self._skipped_in_a_row[network] = (self._skipped_in_a_row[network] + 1) * result.skipped
        self.reporter.add({f"{network}_gradient_norm": result.gradient_norm, f"{network}_skipped_share": result.skipped})

    def _check_agreement(self) -> None:
        """Ranks hold the same networks by construction; a fault of a program or a machine must not go unseen, nor into a checkpoint."""
        networks = {"discriminator": self.discriminator_phase.network, "generator": self.generator_phase.network}
        with self.discriminator_engine.whole(), self.generator_engine.whole():
            tensors = {f"{name}: {key}": value for name, network in networks.items() for key, value in network.state_dict().items()}
            found = self.world.disagreements(tensors)
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise RuntimeError(
                f"The ranks no longer hold the same networks: {', '.join(found[:5])}{more} differ from rank 0. Nothing was saved since; "
                "the same command goes on from the last checkpoint. If it happens again, look for a faulty device, or report it."
            )

    def _on_schedule(self) -> None:
        if self.state.just_crossed(self.schedule.log_every_images) or self.state.just_crossed(self.schedule.checkpoint_every_images):
            self._check_agreement()
        if self.state.just_crossed(self.schedule.log_every_images):
            self._log()
        if self.state.just_crossed(self.schedule.samples_every_images):
            self._save_samples()
        if self.state.just_crossed(self.schedule.checkpoint_every_images):
            with self.world.rank_0_works():
                try:
                    self.saver.save()
                except OSError as error:  # a full disk may have room again at the next one
                    self.reporter.say(
                        f"warning: the checkpoint of iteration {self.state.iteration} was not saved ({error}); the run goes on."
                    )

    def _finish(self) -> None:
        """A log line, a grid and a checkpoint always mark the end of a sitting."""
        self._check_agreement()
        self._log()
        self._save_samples()
        with self.world.rank_0_works():
            self.saver.save()
        self.reporter.close()

    def _log(self) -> None:
        self.reporter.interval()
        for skip in self.skips.exchange(self.feed.reader.take_skips()):
            self.reporter.skipped(skip)
        for network, number in self._skipped_in_a_row.items():
            if number >= MAX_SKIPPED_STEPS:
                raise FloatingPointError(
                    f"The last {int(number)} steps of the {network} had a gradient that was not finite; lower "
                    f"{network}_optimizer.learning_rate or penalty.weight and go on from the last checkpoint."
                )

    def _save_samples(self) -> None:
        with self.world.rank_0_works(), self.generator_engine.whole():
            for name, generator in (("raw", self.generator_phase.network), ("ema", self.ema.network)):
                if self.world.is_main:
                    save_grid(sample(generator, self.grid_latents, self.grid_labels), self.grid_path(name))

    def grid_path(self, name: str) -> Path:
        """Where the grid of this moment is kept; `name` is 'raw' or 'ema'."""
        return self.samples_directory / f"kimg-{self.state.num_images / 1000:09.3f}-{name}.png"
