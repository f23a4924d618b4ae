"""The manifest of a shard set, kept beside the shards: what is there, and a hash that names it.

    manifest.json    version, hash and totals of the directory
    shards.jsonl     a `ShardRecord` a line
    <shard>.index    see index.py

Shards written by anybody are indexed on first use. Where the directory cannot be written, the three go to the user's cache.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distgan.data.remote.cache import CacheSettings
from distgan.data.shards import local_shards, remote_shards
from distgan.data.shards.damage import FAIL, DamagePolicy, Skip
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.index import Shard, ShardRecord, is_remote
from distgan.data.shards.records import hash_of
from distgan.errors import InputError


@dataclass(frozen=True)
class Manifest:
    """The shards of a run in their order, and the SHA-256 that names this content in this order.

    Attributes:
        shards: those that hold samples.
        unreadable: those of which no sample is whole.
    """

    shards: tuple[Shard, ...]
    hash: str
    unreadable: tuple[Shard, ...] = ()

    @property
    def num_samples(self) -> int:
        return sum(shard.record.num_samples for shard in self.shards)

    @property
    def num_damaged(self) -> int:
        """The number of samples that were found damaged at indexing and are none of the samples."""
        return sum(shard.record.num_damaged for shard in (*self.shards, *self.unreadable))

    @property
    def skips(self) -> list[Skip]:
        """What was found damaged at indexing, in words."""
        return [
            Skip(shard.location, damage.key or "", f"{shard.location} {damage.text}.")
            for shard in (*self.shards, *self.unreadable)
            for damage in shard.record.damages
        ]

    @property
    def num_classes(self) -> int:
        return max(shard.record.num_classes for shard in self.shards)

    @property
    def channels(self) -> int:
        """3 if any image is in colour, else 1."""
        return max(shard.record.channels for shard in self.shards)

    def image_size(self, resolution: int | None) -> int:
        """The side of the square images: `resolution`, or what all of them share.

        Raises:
            InputError: they differ or are not square, and no resolution is set.
        """
        if resolution is not None:
            return resolution
        smallest = min(shard.record.min_side for shard in self.shards)
        largest = max(shard.record.max_side for shard in self.shards)
        if smallest != largest:
            kind = "different sizes" if not any(shard.record.num_not_square for shard in self.shards) else "sizes that are not one square"
            raise InputError(
                f"data.resolution is null, but the images have {kind} (sides of {smallest} to {largest} pixels); "
                "set data.resolution to the side to which they are scaled and cropped."
            )
        return smallest

    def labels_by_shard(self) -> list[np.ndarray]:
        """For each shard, the labels of its samples: [num_samples] int32, NO_LABEL where there is none.

        Raises:
            TransferError, ValueError: the index of a remote shard cannot be brought, or is another one.
        """
        for shard in self.shards:
            remote_shards.fetch_index(shard)
        return [np.array(shard.load_index()["label"]) for shard in self.shards]  # copies: a process has 65,530 mappings

    def check_labels(self, option: str = "model.conditional", policy: DamagePolicy = FAIL) -> None:
        """Hold the samples without a label against the policy, together with those that are damaged; `option` is the switch that asks
        for labels.

        Raises:
            InputError: naming one of them.
        """
        num_lost, num_all = self._num_unlabelled + self.num_damaged, self.num_samples + self.num_damaged
        if self._num_unlabelled == 0 or (policy.skip and policy.allows(num_lost, num_all)):
            return
        shard = next(shard for shard in self.shards if shard.record.num_labelled < shard.record.num_samples)
        remote_shards.fetch_index(shard)
        number = int(np.flatnonzero(shard.load_index()["label"] == NO_LABEL)[0])
        budget = f" ({num_lost} of {num_all} samples are without one or damaged, more than data.max_skipped_share allows)"
        raise InputError(
            f"{option} is true, but the sample {shard.load_keys()[number]!r} of {shard.location} has no label (.cls)"
            f"{budget if policy.skip else ''}; add the label or set {option} to false."
        )

    def check_classes(self, num_classes: int, policy: DamagePolicy = FAIL) -> None:
        """Hold the samples with a label beyond `num_classes` against the policy, together with those that have none or are damaged.

        Raises:
            InputError: naming one of them.
        """
        beyond = [shard for shard in self.shards if shard.record.num_classes > num_classes]
        for shard in beyond:
            remote_shards.fetch_index(shard)
        num_beyond = sum(int((shard.load_index()["label"] >= num_classes).sum()) for shard in beyond)
        num_lost, num_all = num_beyond + self._num_unlabelled + self.num_damaged, self.num_samples + self.num_damaged
        if num_beyond == 0 or (policy.skip and policy.allows(num_lost, num_all)):
            return
        labels = beyond[0].load_index()["label"]
        number = int(np.flatnonzero(labels >= num_classes)[0])
        raise InputError(
            f"data.num_classes is {num_classes}, but the sample {beyond[0].load_keys()[number]!r} of {beyond[0].location} has the label "
            f"{labels[number]}; mend the label, or set data.num_classes to {self.num_classes}, one more than the highest."
        )

    @property
    def _num_unlabelled(self) -> int:
        return sum(shard.record.num_samples - shard.record.num_labelled for shard in self.shards)


def open_manifest(locations: Sequence[str | Path], policy: DamagePolicy = FAIL, cache: CacheSettings | None = None) -> Manifest:
    """The manifest of the shards at these paths or URLs, in this order; indexes what is new or has changed.

    Args:
        cache: of remote shards; None: there are none.

    Raises:
        InputError: a shard is damaged and the policy does not pass over it, or no place for its index can be written.
    """
    manifest = index_shards(locations, cache)
    policy.check((shard.location, shard.record) for shard in (*manifest.shards, *manifest.unreadable))
    return manifest


def index_shards(locations: Sequence[str | Path], cache: CacheSettings | None = None) -> Manifest:
    """As `open_manifest`, whatever is damaged.

    Raises:
        InputError: a shard cannot be brought, or no place for an index can be written.
    """
    names = [os.fspath(location) for location in locations]
    by_directory: dict[str, list[str]] = {}
    for name in names:
        by_directory.setdefault(_directory(name), []).append(name)
    opened: dict[str, Shard] = {}
    for directory, inside in by_directory.items():
        if is_remote(directory):
            assert cache is not None
            found = remote_shards.open_directory(directory, inside, cache)
        else:
            found = local_shards.open_directory(Path(directory), [os.path.basename(name) for name in inside])
        opened |= {name: found[remote_shards.name_of(name) if is_remote(name) else os.path.basename(name)] for name in inside}
    shards = _with_open_damages_counted([opened[name] for name in names])
    readable = tuple(shard for shard in shards if shard.record.num_samples > 0)
    unreadable = tuple(shard for shard in shards if shard.record.num_samples == 0)
    return Manifest(readable, hash_of([shard.record for shard in shards]), unreadable)


def _with_open_damages_counted(shards: list[Shard]) -> list[Shard]:
    """A cut shard does not tell what it has lost: it is taken to have held as many samples as the largest of the others."""
    is_open = [any(damage.is_open for damage in shard.record.damages) for shard in shards]
    others = [shard.record for shard, open_ in zip(shards, is_open, strict=True) if not open_]
    most = max((record.num_samples + record.num_damaged for record in others), default=0)

    def counted(record: ShardRecord) -> ShardRecord:
        num_known = record.num_samples + sum(damage.num_samples for damage in record.damages if not damage.is_open)
        at_least = [most - num_known if damage.is_open else 0 for damage in record.damages]
        numbers = [max(damage.num_samples, number) for damage, number in zip(record.damages, at_least, strict=True)]
        damages = [replace(damage, num_samples=number) for damage, number in zip(record.damages, numbers, strict=True)]
        return replace(record, damages=tuple(damages))

    return [replace(shard, record=counted(shard.record)) if open_ else shard for shard, open_ in zip(shards, is_open, strict=True)]


def _directory(location: str) -> str:
    return remote_shards.directory_of(location) if is_remote(location) else os.path.dirname(location)
