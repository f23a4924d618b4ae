"""Operations are counted under every engine while it trains, and what it learns stays the same to the bit."""

from pathlib import Path
from typing import Any

import torch

from distgan.distributed import World
from distgan.metrics import reporter
from distgan.metrics.flops import FlopCount
from tests.distributed.test_deepspeed import ONE_RANK, under
from tests.ranks import run_ranks
from tests.training import SMALL_MODELS, everything, settings, trainer_of
from tests.unit.test_flops import NoCount

ENGINES = [("ddp", 0), *(("deepspeed", stage) for stage in range(4))]
SECTIONS: dict[str, dict[str, Any]] = {
    "model": SMALL_MODELS["dcgan"],  # with an exchange in the forward: of its batch norm
    "penalty": {"name": "r1", "every": 2},
    "engine": {"accumulation_steps": 2},
}


def _trained(world: World, directory: Path, engine: str, stage: int) -> tuple[dict[str, torch.Tensor], int]:
    with trainer_of(settings(directory, **under(engine, stage, SECTIONS)), world) as trainer:
        for _ in range(2):
            trainer.iterate()
        return everything(trainer), trainer.reporter._flops.total


def _totals(world: World, directory: Path) -> list[int]:
    """The operations of this rank under each engine; fails where counting changes what is learnt."""
    found = []
    for engine, stage in ENGINES:
        reporter.FlopCount = NoCount
        expected, nothing = _trained(world, directory / f"without-{engine}-{stage}", engine, stage)
        reporter.FlopCount = FlopCount
        learnt, total = _trained(world, directory / f"with-{engine}-{stage}", engine, stage)
        assert nothing == 0
        assert [name for name, value in expected.items() if not torch.equal(value, learnt[name])] == []
        found.append(total)
    return found


def test_ranks_count_their_share_under_every_engine(tmp_path: Path) -> None:
    _, total = _trained(ONE_RANK, tmp_path / "one", "ddp", 0)
    for totals in run_ranks(2, _totals, tmp_path):
        assert totals == [total / 2] * len(ENGINES)
