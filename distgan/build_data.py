"""`data` of the configuration -> its check before anything starts, and what reads it."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.batch import BatchLayout
from distgan.config import TrainConfig
from distgan.data import urls
from distgan.data.augment import Augmentation
from distgan.data.balanced_plan import BalancedPlan
from distgan.data.damage import DamagePolicy
from distgan.data.manifest import Manifest, open_manifest
from distgan.data.plan import Plan, SamplePlan
from distgan.data.reader import Reader
from distgan.data.remote.shards import CacheSettings
from distgan.distributed import World
from distgan.errors import InputError
from distgan.images import save_grid, to_float, to_uint8
from distgan.models import MODELS
from distgan.models.base import ImageShape

MAX_FETCHING_NODES = 3


@dataclass(frozen=True)
class Preflight:
    """What the checks found out."""

    manifest: Manifest
    images: ImageShape
    num_classes: int | None  # None: the model is unconditional


def check_data(config: TrainConfig) -> Preflight:
    """Look at the data, and hold the configuration against it.

    Raises:
        InputError: with a sentence for everything that is wrong.
    """
    locations = urls.resolve(config.data.url)
    manifest = open_manifest(locations, damage_policy(config), cache_settings(config))
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
        if config.model.conditional:
            manifest.check_labels("model.conditional", damage_policy(config))
            manifest.check_classes(num_classes)
        if config.data.balance_classes:  # whatever stands in for a sample is of its class, and none has none
            manifest.check_labels("data.balance_classes")
    except InputError as error:
        raise InputError(problems + error.problems) from None
    if problems:
        raise InputError(problems)
    images = ImageShape(config.data.channels or manifest.channels, size)
    return Preflight(manifest, images, num_classes if config.model.conditional else None)


def damage_policy(config: TrainConfig) -> DamagePolicy:
    """What the run does about damaged samples."""
    return DamagePolicy(config.data.on_error == "skip", config.data.max_skipped_share)


def cache_settings(config: TrainConfig) -> CacheSettings:
    """Where remote shards are kept."""
    directory = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else CacheSettings.default().directory
    return CacheSettings(directory, round(config.data.cache_gigabytes * 1e9))


def build_reader(config: TrainConfig, preflight: Preflight, layout: BatchLayout, first_batch: int, world: World) -> Reader:
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
) -> Reader:
    is_remote = any(shard.is_remote for shard in preflight.manifest.shards)
    return Reader(
        preflight.manifest,
        _plan(config, preflight.manifest),
        layout,
        preflight.images.size,
        preflight.images.channels,
        num_workers,
        first_batch,
        pin_memory,
        damage_policy(config),
        cache_settings(config) if is_remote else None,
        fetch,
        needs_labels=config.model.conditional,
    )


def _plan(config: TrainConfig, manifest: Manifest) -> Plan:
    if config.data.balance_classes:
        labels_per_shard = [np.array(shard.load_index()["label"]) for shard in manifest.shards]  # copies: a process has 65,530 mappings
        return BalancedPlan(labels_per_shard, manifest.hash, config.run.seed)
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
