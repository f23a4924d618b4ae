"""`data` of the configuration -> its check before anything starts, and what reads it."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.batch import BatchLayout
from distgan.config import Data, TrainConfig
from distgan.data.augment import Augmentation
from distgan.data.balanced_plan import BalancedPlan
from distgan.data.plan import Plan, SamplePlan
from distgan.data.reading.reader import Reader, RealImages
from distgan.data.reading.skips import SkipLedger
from distgan.data.remote.cache import CacheSettings
from distgan.data.shards import urls
from distgan.data.shards.damage import FAIL, DamagePolicy, Skip
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.streaming import stream_urls
from distgan.data.streaming.stream_reader import StreamReader
from distgan.distributed import World
from distgan.errors import InputError
from distgan.images import save_grid, to_float, to_uint8
from distgan.models import MODELS
from distgan.models.base import ImageShape

MAX_FETCHING_NODES = 3
OF_INDEXED_DATA = ("shuffle_window", "balance_classes", "fetch")  # settings that a stream cannot follow


@dataclass(frozen=True)
class Preflight:
    """What the checks found out."""

    images: ImageShape
    num_classes: int | None  # None: the model is unconditional
    manifest: Manifest | None  # None: data.mode is stream, and nobody knows what the shards hold
    stream: tuple[str, ...] = ()  # the shards of mode stream

    @property
    def manifest_hash(self) -> str | None:
        """What names the content of the data; None: nothing does."""
        return None if self.manifest is None else self.manifest.hash

    @property
    def skips(self) -> list[Skip]:
        """What is known to be damaged."""
        return [] if self.manifest is None else self.manifest.skips

    def describe(self) -> str:
        """The data in a line."""
        size, channels = self.images.size, self.images.channels
        images = f"images {size}x{size}x{channels}"
        if self.manifest is None:
            return f"{len(self.stream)} shards, streamed; {self.num_classes or 'no'} classes, {images}"
        num_classes = self.num_classes or self.manifest.num_classes
        return (
            f"{self.manifest.num_samples:,} samples in {len(self.manifest.shards)} shards, "
            f"{num_classes or 'no'} classes, {images}, manifest {self.manifest.hash[:12]}"
        )


def check_data(config: TrainConfig) -> Preflight:
    """Look at the data, as far as its mode allows, and hold the configuration against it.

    Raises:
        InputError: with a sentence for everything that is wrong.
    """
    return _check_streamed(config) if config.data.mode == "stream" else _check_indexed(config)


def _check_indexed(config: TrainConfig) -> Preflight:
    manifest = open_manifest(urls.resolve(config.data.url), damage_policy(config), cache_settings(config))
    num_classes = config.data.num_classes or manifest.num_classes
    problems = _cache_problems(config, manifest)
    if manifest.num_samples < config.train.batch_size:
        problems.append(
            f"train.batch_size is {config.train.batch_size}, but data.url {config.data.url!r} holds only {manifest.num_samples} samples; "
            "set train.batch_size to at most that, or add data."
        )
    try:
        size = manifest.image_size(config.data.resolution)
        problems += MODELS[config.model.name].problems(config.model, size)
        # Where classes are balanced, what stands in for a sample is of its class: nothing does for one of no class, or beyond all.
        label_policy = FAIL if config.data.balance_classes else damage_policy(config)
        if config.model.conditional:
            manifest.check_labels("model.conditional", label_policy)
            manifest.check_classes(num_classes, label_policy)
        if config.data.balance_classes:
            manifest.check_labels("data.balance_classes")
    except InputError as error:
        raise InputError(problems + error.problems) from None
    if problems:
        raise InputError(problems)
    images = ImageShape(config.data.channels or manifest.channels, size)
    return Preflight(images, num_classes if config.model.conditional else None, manifest)


def _check_streamed(config: TrainConfig) -> Preflight:
    """Nothing is opened: a shard may come only once, or cost something."""
    data = config.data
    problems = []
    if data.resolution is None:
        problems.append(
            "data.resolution is null, but data.mode is 'stream', which does not look at the images first; "
            "set data.resolution to the side to which they are scaled and cropped."
        )
    else:
        problems += MODELS[config.model.name].problems(config.model, data.resolution)
    if config.model.conditional and data.num_classes is None:
        problems.append(
            "data.num_classes is null, but data.mode is 'stream', which does not look at the labels first; "
            "set data.num_classes to one more than the highest label, or model.conditional to false."
        )
    problems += [
        f"data.{name} is {getattr(data, name)!r}, which is for data.mode 'indexed', but data.mode is 'stream'; leave data.{name} out."
        for name in OF_INDEXED_DATA
        if getattr(data, name) != Data.model_fields[name].default
    ]
    try:
        shards = stream_urls.resolve(data.url)
    except InputError as error:
        raise InputError(problems + error.problems) from None
    if problems or data.resolution is None:
        raise InputError(problems)
    images = ImageShape(data.channels or 3, data.resolution)
    return Preflight(images, data.num_classes if config.model.conditional else None, None, tuple(shards))


def damage_policy(config: TrainConfig) -> DamagePolicy:
    """What the run does about damaged samples."""
    return DamagePolicy(config.data.on_error == "skip", config.data.max_skipped_share)


def cache_settings(config: TrainConfig) -> CacheSettings:
    """Where remote shards are kept."""
    directory = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else CacheSettings.default().directory
    return CacheSettings(directory, round(config.data.cache_gigabytes * 1e9))


def build_ledger(config: TrainConfig, preflight: Preflight, world: World) -> SkipLedger:
    """What counts the damaged samples of all ranks."""
    manifest = preflight.manifest
    if manifest is None:
        return SkipLedger(world, damage_policy(config), num_damaged=0, num_samples=None)
    return SkipLedger(world, damage_policy(config), manifest.num_damaged, manifest.num_samples)


def build_reader(config: TrainConfig, preflight: Preflight, layout: BatchLayout, first_batch: int, world: World) -> RealImages:
    """What reads this rank's slices from batch `first_batch` on, ahead of training."""
    return _reader(
        config,
        preflight,
        layout,
        first_batch,
        config.data.num_workers,
        _fetches_shards(config, world.num_nodes),
        world.device.type == "cuda",
    )


def save_real_grid(config: TrainConfig, preflight: Preflight, augmentation: Augmentation, directory: Path) -> None:
    """Draw real.png: images as the discriminator gets them, in the run's own order, to lay beside the generated ones."""
    layout = BatchLayout(config.metrics.num_sample_images, accumulation_steps=1, world_size=1, rank=0)
    with closing(_reader(config, preflight, layout, first_batch=0, num_workers=0, fetch=False, pin_memory=False)) as reader:
        real = next(reader)
        save_grid(to_uint8(augmentation(to_float(real.images), real.numbers)), directory / "real.png")


def _reader(
    config: TrainConfig, preflight: Preflight, layout: BatchLayout, first_batch: int, num_workers: int, fetch: bool, pin_memory: bool
) -> RealImages:
    manifest, images, policy = preflight.manifest, preflight.images, damage_policy(config)
    if manifest is None:
        return StreamReader(
            preflight.stream,
            layout,
            images.size,
            images.channels,
            preflight.num_classes,
            config.run.seed,
            num_workers,
            first_batch,
            pin_memory,
            policy,
        )
    return Reader(
        manifest,
        _plan(config, manifest),
        layout,
        images.size,
        images.channels,
        num_workers,
        first_batch,
        pin_memory,
        policy,
        cache_settings(config) if any(shard.is_remote for shard in manifest.shards) else None,
        fetch,
        num_classes=preflight.num_classes,
    )


def _plan(config: TrainConfig, manifest: Manifest) -> Plan:
    if config.data.balance_classes:
        return BalancedPlan(manifest.labels_by_shard(), manifest.hash, config.run.seed)
    samples_per_shard = np.array([shard.record.num_samples for shard in manifest.shards])
    return SamplePlan(samples_per_shard, manifest.hash, config.run.seed, config.data.shuffle_window)


def _fetches_shards(config: TrainConfig, num_nodes: int) -> bool:
    """Of n nodes each needs an n-th of every shard: on many, what is needed alone is less than whole shards."""
    return config.data.fetch == "shards" or (config.data.fetch == "auto" and num_nodes <= MAX_FETCHING_NODES)


def _cache_problems(config: TrainConfig, manifest: Manifest) -> list[str]:
    """Whether the cache has room for what is shuffled together, twice: it is read while the next is brought."""
    sizes = sorted((shard.record.bytes for shard in manifest.shards if shard.is_remote), reverse=True)
    needed_bytes = sum(sizes[: 2 * config.data.shuffle_window + 2])  # blocks are a mean shard long, and lie across two
    if config.data.fetch == "samples" or needed_bytes <= config.data.cache_gigabytes * 1e9:
        return []
    return [
        f"data.cache_gigabytes is {config.data.cache_gigabytes:g}, but twice data.shuffle_window {config.data.shuffle_window} shards "
        f"are up to {needed_bytes / 1e9:.3g} GB; raise it, lower data.shuffle_window, or set data.fetch to samples."
    ]
