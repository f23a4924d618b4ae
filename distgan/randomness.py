"""Every random number of a run. Nothing else draws.

A draw is a pure function of (seed, stream, index): a generator is seeded with them, the numbers of the whole GLOBAL batch are
drawn on the CPU, and a rank keeps the positions it holds. So results depend neither on the number of ranks nor on the
device, and the random state of a checkpoint is the counter of steps.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Randomness:
    """The draws of the run with this seed. A stream is a name such as 'generator.latents'; an index counts its draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def normal(self, stream: str, index: int, count: int, size: int) -> torch.Tensor:
        """Standard normal numbers, [count, size] fp32."""
        return torch.randn(count, size, generator=self._generator(stream, index))

    def uniform(self, stream: str, index: int, count: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), [count] fp32."""
        return torch.rand(count, generator=self._generator(stream, index))

    def integers(self, stream: str, index: int, count: int, below: int) -> torch.Tensor:
        """Uniform integers in [0, below), [count] int64."""
        return torch.randint(below, (count,), generator=self._generator(stream, index))

    @contextmanager
    def initialising(self, stream: str) -> Iterator[None]:
        """Within this, torch's own CPU generator (which modules initialise from) is seeded; its state is put back after."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed_of(stream, 0))
            yield

    def _generator(self, stream: str, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed_of(stream, index))

    def _seed_of(self, stream: str, index: int) -> int:
        digest = hashlib.blake2b(f"{self.seed}:{stream}:{index}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1  # manual_seed takes 63 bits
