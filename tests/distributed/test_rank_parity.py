"""The law of data parallelism: R ranks compute what one rank computes on the joined batch."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from distgan.distributed import World
from tests.training import SMALL_MODELS, everything, run_ranks, settings, trainer_of, worst_error

ITERATIONS = 5
RANKS = 2
TOLERANCE = 1e-5

CELLS = {
    "-".join([model, penalty, formulation, f"accumulation{steps}"]): {
        "model": SMALL_MODELS[model],
        "penalty": {"name": penalty, "formulation": formulation, "weight": 2.0, "every": 2},
        "engine": {"accumulation_steps": steps},
    }
    for model, penalty, formulation, steps in itertools.product(
        ("mlp", "dcgan"), ("r1", "wgan_gp"), ("double_backward", "forward_over_reverse"), (1, 2)
    )
}
CELLS["dcgan-conditional-hinge"] = {
    "model": SMALL_MODELS["dcgan"] | {"conditional": True},
    "loss": {"name": "hinge"},
    "train": {"discriminator_steps": 2},
}
CELLS["mlp-conditional-wasserstein"] = {
    "model": SMALL_MODELS["mlp"] | {"conditional": True},
    "loss": {"name": "wasserstein"},
    "penalty": {"name": "wgan_gp", "every": 1},
}
CELLS["dcgan-batchnorm-in-both"] = {
    "model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "batch"},
    "penalty": {"name": "none"},
}

Result = dict[str, dict[str, torch.Tensor]]


def _train_cells(world: World, directory: Path, cells: dict[str, Any]) -> Result:
    """Every tensor after ITERATIONS iterations, for each cell."""
    results = {}
    for name, cell in cells.items():
        with trainer_of(settings(directory / name, **cell), world) as trainer:
            for _ in range(ITERATIONS):
                trainer.iterate()
            results[name] = everything(trainer)
    return results


def _train_cells_without_one_all_reduce(world: World, directory: Path, cells: dict[str, Any]) -> Result:
    """The planted fault: the discriminator's third step forgets to meet the other ranks."""
    from distgan.engine.ddp import DdpEngine

    backward, calls = DdpEngine.backward, itertools.count()

    def forgetful(engine: DdpEngine, part: str, batch: Any, *, last: bool) -> Any:
        forgets = last and "discriminator_loss" and next(calls) == 4
        return backward(engine, part, batch, last=last and not forgets)

    DdpEngine.backward = forgetful
    return _train_cells(world, directory, cells)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Result:
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    return _train_cells(world, tmp_path_factory.mktemp("one"), CELLS)


@pytest.fixture(scope="module")
def many_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    return run_ranks(RANKS, _train_cells, tmp_path_factory.mktemp("many"), CELLS)


@pytest.mark.parametrize("cell", CELLS)
def test_many_ranks_equal_one_rank(cell: str, one_rank: Result, many_ranks: list[Result]) -> None:
    for rank in range(RANKS):
        error, name = worst_error(many_ranks[rank][cell], one_rank[cell])
        assert error < TOLERANCE, f"rank {rank}: {name} differs by {error:.1e}"


@pytest.mark.parametrize("cell", CELLS)
def test_ranks_agree_to_the_bit(cell: str, many_ranks: list[Result]) -> None:
    first, second = (result[cell] for result in many_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_forgotten_all_reduce_is_noticed(one_rank: Result, tmp_path: Path) -> None:
    cell = "mlp-r1-double_backward-accumulation1"
    wrong = run_ranks(RANKS, _train_cells_without_one_all_reduce, tmp_path, {cell: CELLS[cell]})
    assert worst_error(wrong[0][cell], one_rank[cell])[0] > 10 * TOLERANCE
