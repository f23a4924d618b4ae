"""The vectors of a spectral norm are a function of the weights: ranks whose weights are equal never exchange them."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.distributed import World
from distgan.models.layers import SpectrallyNormalisedDiscriminator
from tests.ranks import run_ranks
from tests.training import SMALL_MODELS, settings, trainer_of

ITERATIONS = 50


class CollectivesSeen(TorchDispatchMode):
    """Counts the collectives that are called within it, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.counts[func._opname] = self.counts.get(func._opname, 0) + 1
        return func(*args, **(kwargs or {}))


class Result(NamedTuple):
    """Of one rank."""

    start: dict[str, torch.Tensor]  # u, v and sigma
    end: dict[str, torch.Tensor]
    collectives: dict[str, int]  # how often each was called from the third iteration on


def _train(world: World, directory: Path) -> Result:
    values = settings(
        directory,
        model=SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral"},
        loss={"name": "hinge"},
        penalty={"name": "none"},
    )
    with trainer_of(values, world) as trainer:
        discriminator = trainer.discriminator_phase.network
        assert isinstance(discriminator, SpectrallyNormalisedDiscriminator)

        def snapshot() -> dict[str, torch.Tensor]:
            return {"u": discriminator.u.clone(), "v": discriminator.v.clone(), "sigma": discriminator._norms(0)}

        start = snapshot()
        for _ in range(2):
            trainer.iterate()  # DistributedDataParallel broadcasts the order of its buckets once
        with CollectivesSeen() as seen:
            for _ in range(ITERATIONS - 2):
                trainer.iterate()
            end = snapshot()
            dist.broadcast(torch.zeros(1), src=0)  # one, to see that it would be seen
        return Result(start, end, seen.counts)


def test_two_ranks_hold_the_same_vectors_without_a_broadcast(tmp_path: Path) -> None:
    one, other = run_ranks(2, _train, tmp_path / "run")
    for name, value in one.end.items():
        assert torch.equal(value, other.end[name]), name
        assert not torch.equal(value, one.start[name]), name
    for result in (one, other):
        assert result.collectives["broadcast_"] == 1, "the test's own"
        assert result.collectives["allreduce_"] >= ITERATIONS, "of the gradients and the batch norms"
