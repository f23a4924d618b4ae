"""The balanced plan: every class equally often, however many samples it has, as a pure function of a sample's number.

Draws come in blocks that hold each class once, in a pseudo-random order. Within a class its samples come in rounds that hold each
of them once, in another order every round. As a block holds one draw of a class, the block's number counts the draws of every
class; so any position is found in constant time, and the only table is the samples sorted by class. Neighbours in the order lie
anywhere in the shards.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from distgan.data.plan import GOLDEN, find_in_shards, mix, permute


class BalancedPlan:
    """An order of the samples of a shard set in which no class is rarer than another; a class without samples never comes.

    Args:
        labels_per_shard: for each shard the labels of its samples, integers.
        manifest_hash: hexadecimal name of the content; another content has another order.
        seed: of the run.
    """

    def __init__(self, labels_per_shard: Sequence[np.ndarray], manifest_hash: str, seed: int) -> None:
        labels = np.concatenate(labels_per_shard)
        self.shard_ends = np.cumsum([len(of_shard) for of_shard in labels_per_shard], dtype=np.int64)
        self.num_samples = len(labels)
        # Sample numbers in shard order, class after class; what they are found by is sorted, never a table as long as the highest label.
        self._by_class = labels.argsort(kind="stable").astype(np.uint32 if self.num_samples <= 2**32 else np.int64)
        _, starts, sizes = np.unique(labels[self._by_class], return_index=True, return_counts=True)
        self._starts, self._sizes = starts, sizes.astype(np.uint64)  # [num_classes] each, of the classes that have samples
        digest = hashlib.sha256(f"balanced:{manifest_hash}:{seed}".encode()).digest()
        self._block_key, self._class_key = np.frombuffer(digest[:16], dtype="<u8").reshape(2, 1)

    def locate(self, numbers: np.ndarray, epochs_later: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """As `Plan.locate`; an epoch is a round of a number's own class, so what stands in for a sample is of its class."""
        num_classes = np.uint64(len(self._sizes))
        blocks, positions = np.divmod(numbers.astype(np.uint64), num_classes)
        classes = permute(positions, np.full_like(positions, num_classes), mix(self._block_key + blocks * GOLDEN))
        sizes = self._sizes[classes]
        rounds, positions = np.divmod(blocks, sizes)
        round_keys = mix(mix(self._class_key + classes * GOLDEN) + (rounds + np.uint64(epochs_later)) * GOLDEN)
        ranks = permute(positions, sizes, round_keys)
        samples = self._by_class[self._starts[classes] + ranks.astype(np.int64)]
        return find_in_shards(samples.astype(np.int64), self.shard_ends)

    def shards_ahead(self, first: int, last: int) -> list[int]:
        """As `Plan.shards_ahead`: all of them, as neighbours lie anywhere."""
        return list(range(len(self.shard_ends)))
