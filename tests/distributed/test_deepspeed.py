"""DeepSpeed's ZeRO is held to the same law as DDP: what many ranks compute is what one rank computes on the joined batch.

In fp32: DeepSpeed gathers what it shards in fp32 whatever the network is.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distgan.distributed import World
from distgan.engine.zero3 import Zero3Engine
from tests.ranks import run_ranks
from tests.training import SMALL_MODELS, everything, settings, trainer_of, worst_error

ITERATIONS = 5
TOLERANCE = 1e-5
STAGES = (0, 1, 2, 3)
ONE_RANK = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))

CELLS: dict[str, dict[str, Any]] = {
    "-".join([penalty, formulation, f"accumulation{steps}"]): {
        "penalty": {"name": penalty, "formulation": formulation, "weight": 2.0, "every": 2},
        "engine": {"accumulation_steps": steps},
    }
    for penalty, formulation, steps in itertools.product(("r1", "wgan_gp"), ("double_backward", "forward_over_reverse"), (1, 2))
}
CELLS["conditional-wasserstein"] = {
    "model": SMALL_MODELS["mlp"] | {"conditional": True},
    "loss": {"name": "wasserstein"},
    "penalty": {"name": "wgan_gp", "every": 1},
    "train": {"discriminator_steps": 2},
}
CELLS["approximated-r1"] = {
    "penalty": {"name": "approximated_r1", "every": 2, "noise_std": 0.5},  # small steps magnify the rounding of fp32
    "engine": {"accumulation_steps": 2},
}
CELLS["limited-gradients"] = {
    "penalty": {"name": "none"},
    "discriminator_optimizer": {"max_gradient_norm": 0.05},
    "generator_optimizer": {"max_gradient_norm": 0.02},
}

Result = dict[tuple[str, int], dict[str, torch.Tensor]]


# Without it, DeepSpeed leaves parameters of less than 100,000 numbers whole on every rank, which is all of these networks.
ALL_SHARDED = Path(__file__).with_name("all_sharded.json")


def under(engine: str, stage: int, sections: dict[str, Any]) -> dict[str, Any]:
    options = {"name": engine, "zero_stage": stage} | ({"deepspeed_config": str(ALL_SHARDED)} if stage == 3 else {})
    return sections | {"engine": options | sections.get("engine", {})}


def _train_cells(world: World, directory: Path, engine: str, stages: tuple[int, ...], cells: list[str], iterations: int) -> Result:
    results = {}
    for cell, stage in itertools.product(cells, stages):
        with trainer_of(settings(directory / f"{cell}-{stage}", **under(engine, stage, CELLS[cell])), world) as trainer:
            for _ in range(iterations):
                trainer.iterate()
            results[cell, stage] = everything(trainer)
    return results


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _train_cells(ONE_RANK, tmp_path_factory.mktemp("one"), "ddp", (0,), list(CELLS), ITERATIONS)


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def many_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    return run_ranks(request.param, _train_cells, tmp_path_factory.mktemp("many"), "deepspeed", STAGES, list(CELLS), ITERATIONS)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("cell", CELLS)
def test_many_ranks_equal_one_rank(cell: str, stage: int, one_rank: Result, many_ranks: list[Result]) -> None:
    for rank, results in enumerate(many_ranks):
        error, name = worst_error(results[cell, stage], one_rank[cell, 0])
        assert error < TOLERANCE, f"rank {rank}: {name} differs by {error:.1e}"


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_agree_to_the_bit(stage: int, many_ranks: list[Result]) -> None:
    for cell in CELLS:
        first, *others = (results[cell, stage] for results in many_ranks)
        assert all(torch.equal(first[name], other[name]) for other in others for name in first), cell


def _train_without_one_exchange(world: World, directory: Path, stage: int) -> Result:
    """The planted fault: one step forgets to meet the other ranks."""
    from distgan.engine.deepspeed import DeepSpeedEngine

    backward, calls = DeepSpeedEngine.backward, itertools.count()

    def forgetful(engine: DeepSpeedEngine, part: str, batch: Any, *, last: bool) -> Any:
        if last and next(calls) == 4:
            engine._engine.enable_backward_allreduce = False
        try:
            return backward(engine, part, batch, last=last)
        finally:
            engine._engine.enable_backward_allreduce = True

    DeepSpeedEngine.backward = forgetful
    return _train_cells(world, directory, "deepspeed", (stage,), ["r1-double_backward-accumulation1"], ITERATIONS)


def test_a_forgotten_exchange_is_noticed(one_rank: Result, tmp_path: Path) -> None:
    cell = "r1-double_backward-accumulation1"
    wrong = run_ranks(2, _train_without_one_exchange, tmp_path, 0)
    assert worst_error(wrong[0][cell, 0], one_rank[cell, 0])[0] > 100 * TOLERANCE


def _train_without_the_penalty(world: World, directory: Path) -> Result:
    """The planted fault of stage 3: what parts gave that needed the network whole does not reach the shards."""
    exchange = Zero3Engine._exchange

    def forgetful(engine: Zero3Engine, value: torch.Tensor, *, last: bool) -> None:
        engine._network.zero_grad()
        exchange(engine, value, last=last)

    Zero3Engine._exchange = forgetful
    return _train_cells(world, directory, "deepspeed", (3,), ["r1-double_backward-accumulation1"], ITERATIONS)


def test_a_forgotten_penalty_is_noticed(one_rank: Result, tmp_path: Path) -> None:
    cell = "r1-double_backward-accumulation1"
    wrong = run_ranks(2, _train_without_the_penalty, tmp_path)
    assert worst_error(wrong[0][cell, 3], one_rank[cell, 0])[0] > 100 * TOLERANCE


def _sizes(world: World, directory: Path) -> tuple[list[int], list[int], list[int], list[int]]:
    """Of the discriminator's parameters: sizes in all; here within `whole`, outside, and of what this rank keeps."""
    values = settings(directory, **under("deepspeed", 3, CELLS["r1-double_backward-accumulation1"]))
    with trainer_of(values, world) as trainer:
        trainer.iterate()
        network, engine = trainer.discriminator_phase.network, trainer.discriminator_engine
        assert isinstance(engine, Zero3Engine)
        with engine.whole():
            inside = [parameter.numel() for parameter in network.parameters()]
        outside = [parameter.numel() for parameter in (*network.parameters(), *engine._shards.parameters())]
        kept = [parameter.ds_tensor.numel() for parameter in engine._shards.parameters()]
        everywhere = [value.numel() for name, value in engine.state().network.items()]
    return everywhere, inside, outside, kept


def test_parameters_are_really_sharded_at_stage_3(tmp_path: Path) -> None:
    for everywhere, inside, outside, kept in run_ranks(3, _sizes, tmp_path):
        assert inside == everywhere
        assert set(outside) == {0}
        assert kept == [math.ceil(size / 3) for size in everywhere]


# In fp32, a ReLU flips after some more iterations of these (under DDP, too), and the moments of a bias whose gradient nearly cancels
# keep five digits.
WITH_NORMS: dict[str, dict[str, Any]] = {
    "batch norm": {"model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "batch"}, "penalty": {"name": "none"}},
    "spectral norm": {"model": SMALL_MODELS["sngan"], "loss": {"name": "hinge"}, "penalty": {"name": "none"}},
    "spectral norm and a penalty": {
        "model": SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral"},
        "penalty": {"name": "r1", "every": 2},
        "engine": {"accumulation_steps": 2},
    },
}


def _train_with_norms(world: World, directory: Path, engine: str, stage: int) -> Result:
    results = {}
    for name, sections in WITH_NORMS.items():
        with trainer_of(settings(directory / name, **under(engine, stage, sections)), world) as trainer:
            trainer.iterate()
            trainer.iterate()
            results[name, stage] = everything(trainer)
    return results


def test_norms_and_their_buffers_are_kept_at_stage_3(tmp_path: Path) -> None:
    one = _train_with_norms(ONE_RANK, tmp_path / "one", "ddp", 0)
    for rank, results in enumerate(run_ranks(2, _train_with_norms, tmp_path / "two", "deepspeed", 3)):
        for name in WITH_NORMS:
            error, tensor = worst_error(results[name, 3], one[name, 0])
            assert error < 10 * TOLERANCE, f"{name}, rank {rank}: {tensor} differs by {error:.1e}"


BF16: dict[str, dict[str, Any]] = {
    "mlp": {"model": SMALL_MODELS["mlp"], "penalty": {"name": "wgan_gp", "every": 1}},
    "dcgan": {"model": SMALL_MODELS["dcgan"], "engine": {"accumulation_steps": 2}},
    "sngan": {"model": SMALL_MODELS["sngan"], "penalty": {"name": "none"}},
}


def _train_in_bf16(world: World, directory: Path) -> Result:
    results = {}
    for (model, sections), (engine, stage) in itertools.product(BF16.items(), (("ddp", 0), *(("deepspeed", stage) for stage in STAGES))):
        values = under(engine, stage, sections | {"precision": {"dtype": "bf16"}})
        with trainer_of(settings(directory / f"{model}-{engine}-{stage}", **values), world) as trainer:
            for _ in range(3):
                trainer.iterate()
            results[f"{model}, {engine}", stage] = everything(trainer)
    return results


def test_bf16_is_the_same_under_every_engine(tmp_path: Path) -> None:
    """The same slices on the same ranks: a local gradient rounds alike, and the exchange is in fp32."""
    for rank, results in enumerate(run_ranks(2, _train_in_bf16, tmp_path)):
        for model, stage in itertools.product(BF16, STAGES):
            error, name = worst_error(results[f"{model}, deepspeed", stage], results[f"{model}, ddp", 0])
            assert error < TOLERANCE, f"{model}, stage {stage}, rank {rank}: {name} differs by {error:.1e}"


OWN_SETTINGS = {
    "zero_optimization": {
        "offload_optimizer": {"device": "cpu"},
        "reduce_bucket_size": 500,
        "allgather_bucket_size": 300,
        "overlap_comm": True,
    },
}
OF_STAGE_3 = {"stage3_param_persistence_threshold": 100, "sub_group_size": 700, "stage3_prefetch_bucket_size": 200}


@pytest.mark.parametrize("stage", [2, 3])
def test_settings_of_deepspeeds_own_change_no_weight(stage: int, one_rank: Result, tmp_path: Path) -> None:
    """Small buckets, overlapping, and the optimizer's state in host memory; over two sittings, the second one under DDP."""
    cell, file = "r1-double_backward-accumulation2", tmp_path / "ds.json"
    zero = OWN_SETTINGS["zero_optimization"] | (OF_STAGE_3 if stage == 3 else {})
    file.write_text(json.dumps(OWN_SETTINGS | {"zero_optimization": zero}))
    sections = under("deepspeed", stage, CELLS[cell])
    sections["engine"]["deepspeed_config"] = str(file)
    run_ranks(2, _sitting, tmp_path, sections, FIRST)
    for result in run_ranks(2, _sitting, tmp_path, under("ddp", 0, CELLS[cell]), SECOND):
        error, name = worst_error(result, one_rank[cell, 0])
        assert error < TOLERANCE, f"{name} differs by {error:.1e}"


def test_one_rank_needs_no_others(one_rank: Result, tmp_path: Path) -> None:
    cell = "wgan_gp-double_backward-accumulation2"
    (results,) = run_ranks(1, _train_cells, tmp_path, "deepspeed", STAGES, [cell], ITERATIONS)
    for stage in STAGES:
        assert worst_error(results[cell, stage], one_rank[cell, 0])[0] < TOLERANCE


def _poisoned(world: World, directory: Path) -> dict[int, tuple[bool, float, float]]:
    """For each stage: whether a step whose gradient is NaN on the last rank alone left everything as it was, its norm, and skipped."""
    found = {}
    for stage in STAGES:
        with trainer_of(
            settings(directory / str(stage), **under("deepspeed", stage, CELLS["r1-double_backward-accumulation1"])), world
        ) as trainer:
            trainer.iterate()
            before = everything(trainer)
            phase, engine = trainer.discriminator_phase, trainer.discriminator_engine
            with trainer.generator_engine.whole():
                (batch,) = [phase.with_fakes(batch) for batch in trainer.feed.for_discriminator(1)]
            if world.rank == world.size - 1:
                batch.real_images[0] = float("nan")
            engine.backward("loss", batch, last=True)
            result = engine.step()
            after = everything(trainer)
            same = all(torch.equal(before[name], after[name]) for name in before)
            trainer.iterate()  # and training goes on
            assert all(value.isfinite().all() for value in everything(trainer).values())
            found[stage] = same, float(result.gradient_norm), float(result.skipped)
    return found


def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks_at_every_stage(tmp_path: Path) -> None:
    for results in run_ranks(2, _poisoned, tmp_path):
        for stage, (same, norm, skipped) in results.items():
            assert same, stage
            assert not math.isfinite(norm), stage
            assert skipped == 1, stage


FIRST, SECOND = 3, 2
JOURNEYS = {
    "ZeRO 2 on 4 ranks -> DDP on 1": [("deepspeed", 2, 4), ("ddp", 0, 1)],
    "ZeRO 2 on 4 ranks -> DDP on 3": [("deepspeed", 2, 4), ("ddp", 0, 3)],
    "ZeRO 1 on 2 ranks -> ZeRO 2 on 3": [("deepspeed", 1, 2), ("deepspeed", 2, 3)],
    "DDP on 2 ranks -> ZeRO 1 on 3": [("ddp", 0, 2), ("deepspeed", 1, 3)],
    "ZeRO 3 on 3 ranks -> DDP on 2": [("deepspeed", 3, 3), ("ddp", 0, 2)],
    "ZeRO 3 on 2 ranks -> ZeRO 3 on 3": [("deepspeed", 3, 2), ("deepspeed", 3, 3)],
    "ZeRO 2 on 2 ranks -> ZeRO 3 on 3": [("deepspeed", 2, 2), ("deepspeed", 3, 3)],
    "DDP on 1 rank -> ZeRO 0 on 2": [("ddp", 0, 1), ("deepspeed", 0, 2)],
}


def _sitting(world: World, directory: Path, sections: dict[str, Any], iterations: int) -> dict[str, torch.Tensor]:
    """Some iterations of the run in `directory`, from its newest checkpoint, with a checkpoint at the end."""
    with trainer_of(settings(directory / "run", **sections), world) as trainer:
        for _ in range(iterations):
            trainer.iterate()
        trainer.saver.save()
        return everything(trainer)


def _sittings(world: World, directories: dict[str, Path], engines: dict[str, tuple[str, int]], iterations: int) -> dict[str, Any]:
    """The same sitting of several journeys, one after the other in the same processes."""
    cell = CELLS["wgan_gp-double_backward-accumulation1"]
    return {
        journey: _sitting(world, directories[journey], under(engine, stage, cell), iterations)
        for journey, (engine, stage) in engines.items()
    }


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, torch.Tensor]]]:
    """For each journey, what its ranks hold at its end."""
    directories = {journey: tmp_path_factory.mktemp("journey") for journey in JOURNEYS}
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for sitting, iterations in enumerate((FIRST, SECOND)):
        stops = {journey: stops[sitting] for journey, stops in JOURNEYS.items()}
        for number in sorted({ranks for _, _, ranks in stops.values()}):
            engines = {journey: (engine, stage) for journey, (engine, stage, ranks) in stops.items() if ranks == number}
            results = run_ranks(number, _sittings, directories, engines, iterations)
            found |= {journey: [of_rank[journey] for of_rank in results] for journey in engines}
    return found


@pytest.mark.parametrize("journey", JOURNEYS)
def test_a_checkpoint_goes_on_under_another_engine_and_on_other_ranks(
    journey: str, one_rank: Result, arrived: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    assert FIRST + SECOND == ITERATIONS
    assert len(arrived[journey]) == JOURNEYS[journey][-1][-1]
    for rank, result in enumerate(arrived[journey]):
        error, name = worst_error(result, one_rank["wgan_gp-double_backward-accumulation1", 0])
        assert error < TOLERANCE, f"rank {rank}: {name} differs by {error:.1e}"
