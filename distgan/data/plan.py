"""The sample plan: which sample is number n of a run, as a pure function of n.

Samples are numbered by the order of their shards. Each epoch cuts them into equal blocks of the mean shard's length
(starting at another block each epoch, so that the one short block is not always the same samples), visits the blocks in a
pseudo-random order, and shuffles the samples of `shuffle_window` consecutive blocks together: reads stay near each other,
and no rank keeps a shard. A permutation is a keyed Feistel network with cycle walking (Black & Rogaway 2002, "Ciphers with
arbitrary finite domains"), so any position is found in constant time and memory; the only table is one number a shard.
"""

import hashlib
from typing import Protocol

import numpy as np

ROUNDS = 8
SMALL = 64
_MIX_1, _MIX_2, GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


class Plan(Protocol):
    """An order, without an end, of the samples of a shard set."""

    num_samples: int  # of the shard set

    def locate(self, numbers: np.ndarray, epochs_later: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Samples `numbers` of the run ([n] int64, from 0) -> their shards [n] and places in those shards [n].

        With `epochs_later`: what lies at their places that many epochs on, and can stand in for them.
        """
        ...

    def shards_ahead(self, first: int, last: int) -> list[int]:
        """The shards that samples `first` to `last` come from, and those that come soon after, the most urgent ones first."""
        ...


class SamplePlan:
    """The order of the samples of a shard set.

    Args:
        samples_per_shard: [num_shards] integers.
        manifest_hash: hexadecimal name of the content; another content has another order.
        seed: of the run.
        shuffle_window: number of blocks (mean shards) whose samples are shuffled together.
    """

    def __init__(self, samples_per_shard: np.ndarray, manifest_hash: str, seed: int, shuffle_window: int) -> None:
        self.shard_ends = np.cumsum(samples_per_shard, dtype=np.int64)
        self.num_samples = int(self.shard_ends[-1])
        self._block = -(-self.num_samples // len(self.shard_ends))
        self._num_full_blocks, self._short_block = divmod(self.num_samples, self._block)
        self._num_blocks = self._num_full_blocks + (self._short_block > 0)
        self._shuffle_window, self._window = shuffle_window, self._block * shuffle_window
        digest = hashlib.sha256(f"{manifest_hash}:{seed}".encode()).digest()
        self._key = np.frombuffer(digest[:8], dtype="<u8")  # [1]

    def locate(self, numbers: np.ndarray, epochs_later: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """As `Plan.locate`; an epoch is `num_samples` numbers."""
        epochs, positions = np.divmod(numbers.astype(np.uint64), np.uint64(self.num_samples))
        return find_in_shards(self._sample_at(epochs + np.uint64(epochs_later), positions).astype(np.int64), self.shard_ends)

    def _sample_at(self, epochs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The number, in shard order, of the sample at each position of its epoch; uint64 in and out."""
        block, window = np.uint64(self._block), np.uint64(self._window)
        epoch_keys = mix(self._key + epochs * GOLDEN)
        windows, inside = np.divmod(positions, window)
        window_sizes = np.minimum(window, np.uint64(self.num_samples) - windows * window)
        inside = permute(inside, window_sizes, mix(epoch_keys ^ mix(windows + np.uint64(1))))
        slots, offsets = np.divmod(windows * window + inside, block)
        return (self._block_starts(epoch_keys, slots) + offsets) % np.uint64(self.num_samples)

    def _block_starts(self, epoch_keys: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The first sample of the block that each slot of an epoch holds; uint64 in and out."""
        # The short block, if there is one, keeps the last slot: only there do positions run to its end.
        full = slots < np.uint64(self._num_full_blocks)
        num_full = np.full_like(slots, self._num_full_blocks)
        blocks = np.where(full, permute(np.where(full, slots, 0), np.maximum(num_full, 1), epoch_keys), slots)
        first_block = mix(~epoch_keys) % np.uint64(self._num_blocks)
        return (blocks + first_block) * np.uint64(self._block) % np.uint64(self.num_samples)

    def shards_ahead(self, first: int, last: int) -> list[int]:
        """As `Plan.shards_ahead`: those of their windows, then those of the next one."""
        found: dict[int, None] = {}
        for epoch, window in self._windows(first, last):
            slots = np.arange(window * self._shuffle_window, min((window + 1) * self._shuffle_window, self._num_blocks), dtype=np.uint64)
            starts = self._block_starts(mix(self._key + np.array([epoch], np.uint64) * GOLDEN), slots).astype(np.int64)
            lengths = np.where(slots < self._num_full_blocks, self._block, self._short_block)
            for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
                for begin, stop in ((start, min(end, self.num_samples)), (0, end - self.num_samples)):  # a block may run over the end
                    if begin < stop:
                        (low, high), _ = find_in_shards(np.array([begin, stop - 1]), self.shard_ends)
                        found |= dict.fromkeys(range(int(low), int(high) + 1))
        return list(found)

    def _windows(self, first: int, last: int) -> list[tuple[int, int]]:
        """(epoch, window) of each window from a number's to the one after another number's."""
        per_epoch = -(-self.num_samples // self._window)

        def counted(number: int) -> int:
            epoch, position = divmod(number, self.num_samples)
            return epoch * per_epoch + position // self._window

        return [divmod(count, per_epoch) for count in range(counted(first), counted(last) + 2)]


def find_in_shards(samples: np.ndarray, shard_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in shard order [n] int64 -> their shards [n] and places in those shards [n]."""
    shards = np.searchsorted(shard_ends, samples, side="right")
    starts = np.where(shards > 0, shard_ends[shards - 1], 0)
    return shards, samples - starts


def permute(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Map each value in [0, size) to another in [0, size), one to one for each (size, key).

    All [n] uint64. Up to SMALL values are ranked by a hash of each, which makes every order as likely; there a Feistel
    network of a few bits would favour some.
    """
    keys = np.broadcast_to(keys, values.shape)
    result = np.empty_like(values)
    small = sizes <= SMALL
    result[small] = _rank_by_hash(values[small], sizes[small], keys[small])
    result[~small] = _walk(values[~small], sizes[~small], keys[~small])
    return result


def _rank_by_hash(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The rank of each value's hash among the hashes of all of its range."""
    everything = np.arange(SMALL, dtype=np.uint64)
    hashes = mix(mix(keys)[:, None] + everything)  # [n, SMALL]; mix is one to one, so no two are equal
    own = np.take_along_axis(hashes, values[:, None].astype(np.int64), axis=1)
    return ((hashes < own) & (everything < sizes[:, None])).sum(axis=1).astype(np.uint64)


def _walk(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """An unbalanced Feistel network on the least power of two that holds `size`, walked until it lands inside."""
    bits = np.ceil(np.log2(sizes.astype(np.float64))).astype(np.uint64)
    bits += (np.uint64(1) << bits) < sizes  # log2 rounds; sizes below 2^52 are exact
    result = values.copy()
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        result[outside] = _feistel(result[outside], bits[outside], keys[outside])
        outside = result >= sizes
    return result


def _feistel(values: np.ndarray, bits: np.ndarray, keys: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    left_bits = bits >> one
    right_bits = bits - left_bits
    left, right = values >> right_bits, values & ((one << right_bits) - one)
    for number in range(ROUNDS):  # an even number: the two widths are back in their places
        mask = (one << left_bits) - one
        left, right = right, left ^ (mix(right ^ mix(keys + np.uint64(number + 1))) & mask)
        left_bits, right_bits = right_bits, left_bits
    return (left << right_bits) | right


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), on [n] uint64; arithmetic modulo 2^64 is meant."""
    values = values + GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
