"""The law of data parallelism: R ranks compute what one rank computes on the joined batch.

All cells are held to it in float64. In float32 the order of summation moves an activation by 1e-7 of itself; of the million
activations of a convolutional cell some lie that near to the kink of a ReLU, and one on the other side is a change of 1e-2 in
a network this small. Those of the fully connected networks are few enough: they are held to it in float32 too.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from distgan.distributed import World
from tests.ranks import run_ranks
from tests.training import SMALL_MODELS, everything, settings, trainer_of, worst_error

ITERATIONS = 5
RANKS = 2
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}

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
CELLS["mlp-approximated-r1"] = {
    "model": SMALL_MODELS["mlp"],
    "penalty": {"name": "approximated_r1", "weight": 2.0, "every": 2, "noise_std": 0.5},
    "engine": {"accumulation_steps": 2},
}
CELLS["mlp-augmented"] = {
    "model": SMALL_MODELS["mlp"],
    "data": {"augment": {"flip": True, "rotation_degrees": 20, "shift": 0.1, "zoom": 0.2}},
    "train": {"discriminator_steps": 2},
    "engine": {"accumulation_steps": 2},
}
CELLS["dcgan-batchnorm-in-both"] = {
    "model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "batch"},
    "penalty": {"name": "none"},
}
CELLS["dcgan-spectral-r1"] = {
    "model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral", "conditional": True},
    "penalty": {"name": "r1", "weight": 2.0, "every": 2},
    "engine": {"accumulation_steps": 2},
}
CELLS["dcgan-spectral-hinge"] = {
    "model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral"},
    "loss": {"name": "hinge"},
    "penalty": {"name": "none"},
    "train": {"discriminator_steps": 2},
}
CELLS["sngan-conditional-hinge"] = {
    "model": SMALL_MODELS["sngan"] | {"conditional": True},
    "loss": {"name": "hinge"},
    "penalty": {"name": "none"},
}

CASES = [(cell, dtype) for cell in CELLS for dtype in TOLERANCES if dtype == torch.float64 or cell.startswith("mlp")]
IDS = [f"{cell}-{str(dtype).removeprefix('torch.')}" for cell, dtype in CASES]

Case = tuple[str, torch.dtype]
Result = dict[Case, dict[str, torch.Tensor]]


def _train_cases(world: World, directory: Path, cases: list[Case]) -> Result:
    """Every tensor after ITERATIONS iterations, for each case."""
    results = {}
    for cell, dtype in cases:
        with trainer_of(settings(directory / f"{cell}-{dtype}", **CELLS[cell]), world, dtype) as trainer:
            for _ in range(ITERATIONS):
                trainer.iterate()
            results[cell, dtype] = everything(trainer)
    return results


def _train_cases_without_one_all_reduce(world: World, directory: Path, cases: list[Case]) -> Result:
    """The planted fault: one step forgets to meet the other ranks."""
    from distgan.engine.ddp import DdpEngine

    backward, calls = DdpEngine.backward, itertools.count()

    def forgetful(engine: DdpEngine, part: str, batch: Any, *, last: bool) -> Any:
        forgets = last and next(calls) == 4
        return backward(engine, part, batch, last=last and not forgets)

    DdpEngine.backward = forgetful
    return _train_cases(world, directory, cases)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Result:
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    return _train_cases(world, tmp_path_factory.mktemp("one"), CASES)


@pytest.fixture(scope="module")
def many_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    return run_ranks(RANKS, _train_cases, tmp_path_factory.mktemp("many"), CASES)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_many_ranks_equal_one_rank(case: Case, one_rank: Result, many_ranks: list[Result]) -> None:
    for rank in range(RANKS):
        error, name = worst_error(many_ranks[rank][case], one_rank[case])
        assert error < TOLERANCES[case[1]], f"rank {rank}: {name} differs by {error:.1e}"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_ranks_agree_to_the_bit(case: Case, many_ranks: list[Result]) -> None:
    first, second = (result[case] for result in many_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_forgotten_all_reduce_is_noticed(one_rank: Result, tmp_path: Path) -> None:
    case = ("mlp-r1-double_backward-accumulation1", torch.float32)
    wrong = run_ranks(RANKS, _train_cases_without_one_all_reduce, tmp_path, [case])
    assert worst_error(wrong[0][case], one_rank[case])[0] > 100 * TOLERANCES[torch.float32]
