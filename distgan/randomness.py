"""Every random number of a run. Nothing else draws.

A draw is a pure function of (seed, stream, index): a counter-based generator (Philox; Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3") is keyed with them, the GLOBAL batch is cut into blocks, each with counters of its own, and a rank
draws, on the CPU, the blocks that its positions lie in. (An operator that draws for itself is keyed from here and counts by global
positions, which is the same.) So results depend neither on the number of ranks nor on the device, and the random state of a
checkpoint is the counter of steps.
(torch's own CPU generator takes 32 bits of a seed: a long run would draw some batches twice.)
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

BLOCK = 256  # positions of a draw that one generator draws in order: less than as many are drawn in vain for a slice


class Randomness:
    """The draws of the run with this seed. A stream is a name such as 'generator.latents'; an index counts its draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def normal(self, stream: str, index: int, count: int, size: int, first: int = 0) -> torch.Tensor:
        """Standard normal numbers of the positions `first` to `first + count - 1` of a draw, [count, size] fp32."""
        blocks = self._blocks(stream, index, first, count)
        return torch.from_numpy(
            np.concatenate([block.standard_normal((stop, size), dtype=np.float32)[start:] for block, start, stop in blocks])
        )

    def operator_seed(self, stream: str, index: int) -> int:
        """64 bits to key an operator's own generator with; it counts on from the number of a rank's first sample."""
        return self._key(stream, index) % 2**64

    def integers(self, stream: str, index: int, count: int, below: int, first: int = 0) -> torch.Tensor:
        """Uniform integers in [0, below), [count] int64, of positions as `normal`."""
        blocks = self._blocks(stream, index, first, count)
        return torch.from_numpy(np.concatenate([block.integers(below, size=stop)[start:] for block, start, stop in blocks]))

    def uniform_of_samples(self, stream: str, numbers: np.ndarray, size: int) -> torch.Tensor:
        """Uniform numbers in [0, 1) for the samples with these consecutive numbers in the run ([N] integers), [N, size] float64.

        A sample's are a function of (seed, stream, its number) alone.
        """
        first, count = int(numbers[0]), len(numbers)
        assert int(numbers[-1]) - first == count - 1, "one generator counts on from the first sample"
        blocks = -(-size // 4)  # Philox counts in blocks of four numbers; each sample has blocks of its own
        generator = np.random.Generator(np.random.Philox(key=self._key(stream, 0), counter=first * blocks))
        return torch.from_numpy(generator.random((count, 4 * blocks))[:, :size])

    @staticmethod
    def normal_of_samples(seed: int, first_position: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal numbers [N, ...] fp32; a sample's are a function of `operator_seed`'s seed and its global position alone."""
        generators = (np.random.Philox(key=seed, counter=[0, 0, 0, first_position + sample]) for sample in range(shape[0]))
        numbers = [np.random.Generator(generator).standard_normal(shape[1:], dtype=np.float32) for generator in generators]
        return torch.from_numpy(np.stack(numbers))

    @contextmanager
    def initialising(self, stream: str) -> Iterator[None]:
        """Within this, torch's own CPU generator (which modules initialise from) is seeded; its state is put back after."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._key(stream, 0) % 2**32)
            yield

    def _blocks(self, stream: str, index: int, first: int, count: int) -> Iterator[tuple[np.random.Generator, int, int]]:
        """For each block with any of these positions: its generator, and from where to where in the block they go."""
        key = self._key(stream, index)
        for begin in range(first - first % BLOCK, first + count, BLOCK):
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, begin // BLOCK]))
            yield generator, max(first - begin, 0), min(first + count - begin, BLOCK)

    def _key(self, stream: str, index: int) -> int:
        digest = hashlib.blake2b(f"{self.seed}:{stream}:{index}".encode(), digest_size=16).digest()
        return int.from_bytes(digest, "little")
