"""TrainConfig + World + data -> a Trainer, and the checks that come before anything expensive."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from distgan import checkpoint
from distgan.batch import BatchLayout
from distgan.build_data import Preflight, build_ledger, build_reader, check_data, save_real_grid
from distgan.checkpoint import Checkpoint
from distgan.config import Optimizer, TrainConfig, problems_between_fields
from distgan.data.augment import Augmentation
from distgan.distributed import World
from distgan.ema import Ema
from distgan.engine import deepspeed_settings
from distgan.engine.adam import AdamOptions
from distgan.engine.base import Engine
from distgan.engine.buckets import bucket_numel
from distgan.engine.ddp import DdpEngine
from distgan.engine.deepspeed import DeepSpeedEngine
from distgan.engine.zero3 import Zero3Engine
from distgan.errors import InputError
from distgan.feed import Feed
from distgan.losses import LOSSES
from distgan.metrics.peaks import peak_flops_per_second
from distgan.metrics.prometheus import Exporter
from distgan.metrics.reporter import Reporter
from distgan.metrics.traffic import Traffic
from distgan.models import MODELS
from distgan.models.base import Discriminator, Generator, ImageShape
from distgan.phases import DiscriminatorPhase, GeneratorPhase, Phase
from distgan.precision import DTYPES, Precision
from distgan.randomness import Randomness
from distgan.regularizers import EXACT_PENALTIES, Penalty, approximated_r1
from distgan.run_directory import RunDirectory
from distgan.saver import Saver
from distgan.state import TrainState
from distgan.trainer import Schedule, Trainer


def check(config: TrainConfig, world_size: int) -> Preflight:
    """Hold the configuration against the ranks, the data, the model and the run directory.

    Raises:
        InputError: with a sentence for everything that is wrong.
    """
    problems = problems_between_fields(config, world_size) + deepspeed_settings.problems(config, world_size)
    found = None
    try:
        found = check_data(config)
    except InputError as error:
        problems += error.problems
    problems += RunDirectory(Path(config.run.dir)).problems(config, found.manifest_hash if found else None)
    if problems or found is None:
        raise InputError(problems)
    return found


def build_networks(config: TrainConfig, images: ImageShape, num_classes: int | None) -> tuple[Generator, Discriminator]:
    """Freshly initialised networks on the CPU, the same on every rank."""
    with Randomness(config.run.seed).initialising("networks"):
        return MODELS[config.model.name].build(config.model, images, num_classes)


def build_penalty(config: TrainConfig) -> Penalty | None:
    """The discriminator's penalty, or None."""
    options = config.penalty
    if options.name == "none":
        return None
    if options.name == "approximated_r1":
        return approximated_r1(options.weight, options.every, options.noise_std)
    formulation = "double_backward" if options.formulation == "auto" else options.formulation
    return EXACT_PENALTIES[options.name](options.weight, options.every, formulation)


def build_engine(config: TrainConfig, phase: Phase, options: Optimizer, world: World) -> Engine:
    """The engine that `engine.name` selects, around one phase."""
    adam = AdamOptions(options.learning_rate, (options.beta1, options.beta2), options.eps, options.max_gradient_norm)
    if config.engine.name == "deepspeed":
        settings = deepspeed_settings.complete(config, world.size, options.max_gradient_norm, bucket_numel(phase.network))
        engine = Zero3Engine if config.engine.zero_stage == 3 else DeepSpeedEngine
        return engine(phase, config.engine.accumulation_steps, adam, settings)
    return DdpEngine(phase, world, config.engine.accumulation_steps, adam)


@contextmanager
def built_trainer(config: TrainConfig, world: World, preflight: Preflight, exporter: Exporter, traffic: Traffic) -> Iterator[Trainer]:
    """A trainer that stands where the newest intact checkpoint left off, or at the start. Collective."""
    directory = RunDirectory(Path(config.run.dir))
    state = TrainState(config.train.batch_size, config.train.discriminator_steps)
    saved, warnings = _newest_checkpoint(directory, world)
    if saved is not None:
        state.iteration, state.train_seconds = saved.state["iteration"], saved.state["train_seconds"]

    randomness = Randomness(config.run.seed)
    augmentation = Augmentation(randomness, **config.data.augment.model_dump())
    layout = BatchLayout(config.train.batch_size, config.engine.accumulation_steps, world.size, world.rank)
    generator, discriminator = build_networks(config, preflight.images, preflight.num_classes)
    generator.to(world.device)
    discriminator.to(world.device)
    ema = Ema(generator, config.ema.half_life_kimg * 1000, config.ema.ramp_up)  # a copy of it, before an engine may shard it
    loss = LOSSES[config.loss.name]
    precision = Precision(DTYPES[config.precision.dtype], world.device.type)
    discriminator_phase = DiscriminatorPhase(discriminator, generator, loss, precision, build_penalty(config))
    generator_phase = GeneratorPhase(generator, discriminator, loss, precision)
    engines = {
        "discriminator": build_engine(config, discriminator_phase, config.discriminator_optimizer, world),
        "generator": build_engine(config, generator_phase, config.generator_optimizer, world),
    }
    facts = {
        "manifest_hash": preflight.manifest_hash,
        "images": asdict(preflight.images),
        "num_classes": preflight.num_classes,
        "seed": config.run.seed,
    }
    saver = Saver(world, state, engines, ema, facts, directory, config.checkpoint.keep, exporter)
    if saved is not None:
        saver.restore(saved)
    schedule = Schedule(
        total_images=config.train.total_kimg * 1000,
        log_every_images=config.metrics.log_every_kimg * 1000,
        samples_every_images=config.metrics.samples_every_kimg * 1000,
        checkpoint_every_images=config.checkpoint.every_kimg * 1000,
    )
    peak = peak_flops_per_second(world.device, precision.dtype)
    with (
        closing(Reporter(world, exporter, directory.log, state, schedule.total_images, traffic, peak)) as reporter,
        closing(build_reader(config, preflight, layout, state.discriminator_step, world)) as reader,
    ):
        for warning in warnings:
            reporter.say(f"warning: {warning}; it is passed over.")
        for skip in preflight.skips:
            reporter.skipped(skip)
        if world.is_main:
            save_real_grid(config, preflight, augmentation, directory.samples)
        yield Trainer(
            world=world,
            schedule=schedule,
            state=state,
            feed=Feed(reader, augmentation, randomness, layout, config.model.latent_size, preflight.num_classes, world.device),
            discriminator_phase=discriminator_phase,
            generator_phase=generator_phase,
            discriminator_engine=engines["discriminator"],
            generator_engine=engines["generator"],
            ema=ema,
            grid_latents=randomness.normal("grid.latents", 0, config.metrics.num_sample_images, config.model.latent_size),
            grid_labels=grid_labels(config.metrics.num_sample_images, preflight.num_classes),
            samples_directory=directory.samples,
            saver=saver,
            skips=build_ledger(config, preflight, world),
            reporter=reporter,
        )


def grid_labels(count: int, num_classes: int | None) -> torch.Tensor | None:
    """Labels of a grid, one class after the other, [count] int64; None for an unconditional model."""
    return None if num_classes is None else torch.arange(count) % num_classes


def _newest_checkpoint(directory: RunDirectory, world: World) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint as rank 0 finds it (None: the run is new) and what it passed over. Collective."""
    newest, warnings = checkpoint.newest_intact(directory.checkpoints) if world.is_main else (None, [])
    all_damaged = newest is None and len(warnings) > 0
    step = world.broadcast_integer(-2 if all_damaged else -1 if newest is None else newest)
    if step == -2:
        reason = warnings[0] if warnings else "see rank 0"
        raise InputError(
            f"run.dir is {str(directory.path)!r}, whose checkpoints are all damaged ({reason}); "
            "bring one back, or pass --run.overwrite to move the run aside and start afresh."
        )
    if step == -1:
        return None, []
    try:
        return checkpoint.load(directory.checkpoints, step), warnings
    except FileNotFoundError:
        raise InputError(
            f"run.dir is {str(directory.path)!r}, where rank 0 finds checkpoint {step} but this rank does not; "
            "put run.dir on a file system that all nodes share."
        ) from None
