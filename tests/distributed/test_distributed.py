"""The exchanges between ranks, each against one rank's arithmetic on the joined data."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from distgan.distributed import AnyRank, World
from distgan.metrics.meter import Meter
from distgan.models.layers import BatchNorm2d
from tests.ranks import run_ranks
from tests.training import settings, trainer_of

RANKS = 3


def _joined_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images far from zero [6, 2, 4, 4] (where E[x^2] - E[x]^2 cancels) and weights for their sum."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * RANKS, 2, 4, 4, dtype=torch.float64, generator=generator) + 1000
    return images, torch.randn(images.shape, dtype=torch.float64, generator=generator)


def _tensors(flipped: bool) -> dict[str, torch.Tensor]:
    """Of several kinds; `flipped`, one bit of one element is another."""
    tensors = {
        "fp32": torch.linspace(-1, 1, 12).view(3, 4).T,
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "nan": torch.tensor(torch.nan),
        "count": torch.tensor(7),
        "empty": torch.empty(0),
    }
    if flipped:
        tensors["fp32"] = tensors["fp32"].clone()
        tensors["fp32"][2, 1] = torch.nextafter(tensors["fp32"][2, 1], torch.tensor(2.0))
    return tensors


def _exchange(world: World) -> dict[str, Any]:
    """Everything that these tests ask of a rank, in one process group."""
    images, weights = _joined_batch()
    own = slice(2 * world.rank, 2 * world.rank + 2)
    layer = BatchNorm2d(2).double()
    x = images[own].clone().requires_grad_()
    y = layer(x)
    (y * weights[own]).sum().backward()
    meter = Meter(world)
    for value in (1.0, 2.0):
        meter.add({"loss": torch.tensor(value * (world.rank + 1)), "constant": torch.tensor(7.0)})
    any_rank = AnyRank(world)
    answers = [any_rank(world.rank == 1 and call == 2) for call in range(5)]
    any_rank.close()
    return {
        "y": y.detach(),
        "x.grad": x.grad,
        "weight.grad": layer.weight.grad,
        "running": torch.stack([layer.running_mean, layer.running_var]),
        "fp32": BatchNorm2d(2)(images[own].float()).detach(),
        "means": meter.flush(),
        "empty": meter.flush(),
        "answers": answers,
        "broadcast": world.broadcast_integer(world.rank + 5),
        "is_main": world.is_main,
        "agree": world.disagreements(_tensors(flipped=False)),
        "disagree": world.disagreements(_tensors(flipped=world.rank == 2) | {"other": torch.tensor(world.rank == 1)}),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(RANKS, _exchange)


def test_batch_norm_is_one_ranks_on_the_joined_batch(ranks: list[dict[str, Any]]) -> None:
    images, weights = _joined_batch()
    reference = nn.BatchNorm2d(2).double()
    x = images.clone().requires_grad_()
    y = reference(x)
    (y * weights).sum().backward()
    torch.testing.assert_close(torch.cat([rank["y"] for rank in ranks]), y.detach())
    torch.testing.assert_close(torch.cat([rank["x.grad"] for rank in ranks]), x.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(sum(rank["weight.grad"] for rank in ranks), reference.weight.grad)
    for rank in ranks:
        torch.testing.assert_close(rank["running"], torch.stack([reference.running_mean, reference.running_var]))


def test_running_statistics_are_the_same_to_the_bit(ranks: list[dict[str, Any]]) -> None:
    assert all(torch.equal(rank["running"], ranks[0]["running"]) for rank in ranks)


def test_fp32_batch_norm_does_not_cancel_far_from_zero(ranks: list[dict[str, Any]]) -> None:
    images, _ = _joined_batch()
    expected = nn.BatchNorm2d(2)(images.float()).detach()
    torch.testing.assert_close(torch.cat([rank["fp32"] for rank in ranks]), expected, rtol=0, atol=1e-3)


def test_meter_averages_over_ranks_and_calls(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["means"] == {"constant": 7.0, "loss": 1.5 * 2}
        assert rank["empty"] == {}


def test_one_raised_hand_is_known_to_all_one_call_later(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["answers"] == [False, False, False, True, False] for rank in ranks)


def test_rank_0_speaks_for_all(ranks: list[dict[str, Any]]) -> None:
    assert [rank["broadcast"] for rank in ranks] == [5, 5, 5]
    assert [rank["is_main"] for rank in ranks] == [True, False, False]


def test_one_bit_that_differs_is_named_with_its_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["agree"] == []
        assert rank["disagree"] == ["fp32 on rank 2", "other on rank 1"]


def _train_with_a_fault(world: World, directory: Path) -> str:
    """What the run says when one rank's generator changes by itself, in the last bit of one weight."""
    with trainer_of(settings(directory / "run", train={"total_kimg": 5}, metrics={"log_every_kimg": 0.1, "port": 0}), world) as trainer:
        weight = next(trainer.generator_phase.network.parameters())

        def stop_requested() -> bool:
            if trainer.state.iteration == 5 and world.rank == 1:
                with torch.no_grad():
                    weight.view(-1)[3] = torch.nextafter(weight.view(-1)[3], torch.tensor(2.0))
            return False

        try:
            trainer.fit(stop_requested)
        except RuntimeError as error:
            return str(error)
        return "nothing was noticed"


def test_ranks_that_part_end_the_run_before_anything_is_saved(tmp_path: Path) -> None:
    for sentence in run_ranks(2, _train_with_a_fault, tmp_path):
        assert sentence.startswith("The ranks no longer hold the same networks: ")
        assert "generator: " in sentence
        assert " on rank 1" in sentence
    assert list((tmp_path / "run" / "checkpoints").glob("step-*")) == []


def test_alone_a_hand_is_known_at_once() -> None:
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    assert [AnyRank(world)(raised) for raised in (False, True)] == [False, True]
    assert world.broadcast_integer(3) == 3


def _slow_save(world: World, directory: Path, patient: bool) -> str:
    """A run whose rank 0 needs longer for its checkpoint than ranks wait for each other in training."""
    with trainer_of(settings(directory / "run", train={"total_kimg": 0.1}, checkpoint={"every_kimg": 0.05}), world) as trainer:
        dist.barrier()
        groups = [dist.group.WORLD, *([] if patient else world._patient_group)]
        for group in groups:  # not from the start, as processes start at different times
            assert group is not None
            group._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=8))
        save = trainer.saver.save

        def slow() -> None:
            trainer.saver.save = save
            time.sleep(12 if world.is_main else 0)
            save()

        trainer.saver.save = slow  # once
        trainer.fit(lambda: False)
    return "done"


def test_the_others_have_patience_with_rank_0(tmp_path: Path) -> None:
    assert run_ranks(2, _slow_save, tmp_path, True) == ["done", "done"]


def test_without_patience_they_give_up(tmp_path: Path) -> None:
    """What the patience is for, and that a rank does not wait for ever."""
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"imed out|closed by peer"):
        run_ranks(2, _slow_save, tmp_path, False)
