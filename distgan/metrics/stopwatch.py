"""How long a device works at what has a name."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distgan.metrics.moment import Moment


class Stopwatch:
    """Times of a GPU are those of its current stream, which is not waited for until `flush`; of a CPU the host's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, Moment, Moment]] = []

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """What runs within this is timed under `name`; what a GPU has still to do before does not count."""
        begin = Moment(self._device)
        yield
        self._spans.append((name, begin, Moment(self._device)))

    def flush(self) -> dict[str, float]:
        """The seconds of each name since the last call. Waits for what a GPU has still to do."""
        seconds: defaultdict[str, float] = defaultdict(float)
        for name, begin, end in self._spans:
            seconds[name] += end.seconds() - begin.seconds()
        self._spans.clear()
        return dict(seconds)
