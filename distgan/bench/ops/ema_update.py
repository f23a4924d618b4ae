"""The moving average of the generator, beside `torch._foreach_lerp_`; and a whole Adam step with it.

Fusing the two would read the weights once instead of twice: 9 tensors in memory's traffic (weights, moments and average in and
out, gradients in) instead of 10. The share of copy of "adam + average" against 9 says how much there is to gain at most.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from distgan.bench.measure import COPY, Contestant, Row
from distgan.bench.networks import GENERATORS, Network
from distgan.bench.ops.tools import foreach_copy
from distgan.ops import ema_update

AVERAGE = "ema_update"
ADAM = "adam + average"
DECAY = 0.9

Update = Callable[[list[Tensor], list[Tensor]], None]


@torch.no_grad()
def foreach_lerp(average: list[Tensor], weights: list[Tensor]) -> None:
    torch._foreach_lerp_(average, weights, 1 - DECAY)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def loop(average: list[Tensor], weights: list[Tensor]) -> None:
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, 1 - DECAY)


def distgan(average: list[Tensor], weights: list[Tensor]) -> None:
    ema_update(average, weights, DECAY)


class Problem:
    """Weights, gradients and averages of one network; every contestant has its own of what it changes."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self.weights, self._gradients, self._average = network.draw(device, 3)

    def contestant(self, update: Update) -> Contestant:
        average = [tensor.clone() for tensor in self._average]

        def run() -> list[Tensor]:
            update(average, self.weights)
            return average

        return Contestant(run)

    def adam(self, update: Update) -> Contestant:
        weights, step = self._optimizer()
        average = [tensor.clone() for tensor in self._average]

        def run() -> list[Tensor]:
            step()
            update(average, weights)
            return average

        return Contestant(run)

    def adam_alone(self, network: Network) -> Contestant:
        _, step = self._optimizer()
        return Contestant(step, 7 * network.num_bytes)

    def _optimizer(self) -> tuple[list[Tensor], Callable[[], None]]:
        weights = [torch.nn.Parameter(tensor.clone()) for tensor in self.weights]
        for weight, gradient in zip(weights, self._gradients, strict=True):
            weight.grad = gradient
        adam = torch.optim.Adam(weights, lr=2e-4, betas=(0.5, 0.999), fused=True)
        return [weight.detach() for weight in weights], lambda: adam.step()


def rows(device: torch.device, networks: Sequence[Network] = GENERATORS) -> Iterator[Row]:
    """Two rows for each network."""
    for network in networks:
        yield from _rows_of(network, cache(partial(Problem, network, device)))


def _rows_of(network: Network, problem: Callable[[], Problem]) -> Iterator[Row]:
    average = {
        "foreach lerp": lambda: problem().contestant(foreach_lerp),
        "loop": lambda: problem().contestant(loop),
        "distgan": lambda: problem().contestant(distgan),
        COPY: lambda: foreach_copy(problem().weights),
    }
    yield Row(AVERAGE, str(network), 3 * network.num_bytes, average)
    adam = {
        "foreach lerp": lambda: problem().adam(foreach_lerp),
        "distgan": lambda: problem().adam(distgan),
        "adam alone": lambda: problem().adam_alone(network),
        COPY: lambda: foreach_copy(problem().weights),
    }
    yield Row(ADAM, str(network), 9 * network.num_bytes, adam)
