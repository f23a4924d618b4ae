"""Statistics gathered on the device, read and averaged over the ranks once per log interval."""

import torch

from distgan.distributed import World
from distgan.phases import Statistics


class Meter:
    """Means of named scalars. Every rank must add the same names."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, statistics: Statistics) -> None:
        """Add one value for each name; nothing waits for the device."""
        for name, value in statistics.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def flush(self) -> dict[str, float]:
        """The mean of each name over everything added since the last flush, on all ranks. Collective."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = self._world.mean_(means).tolist()
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, values, strict=True))
