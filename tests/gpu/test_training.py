"""Engines, precisions and the count of exchanges where they run: on one GPU, in a group of one rank."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distgan.bench.engines.contestants import ENGINES, trainer_under
from distgan.bench.ranks import run_ranks
from distgan.distributed import World
from distgan.metrics.traffic import Traffic
from tests.training import SMALL_MODELS, everything, worst_error

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]


def _train(world: World, directory: Path, engine: str, dtype: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    """What 4 iterations move, and the seconds of each exchange among one rank."""
    assert world.device.type == "cuda"
    settings: dict[str, dict[str, Any]] = {
        "train": {"batch_size": 16},
        "data": {"num_workers": 2},
        "model": SMALL_MODELS["mlp"],
        "penalty": {"every": 2},
        "precision": {"dtype": dtype},
    }
    traffic = Traffic()
    with traffic.counting(), trainer_under(engine, settings, world, directory, traffic) as trainer:
        for _ in range(4):
            trainer.iterate()
        dist.all_reduce(torch.zeros(1000, device=world.device))
        work = dist.all_reduce(torch.zeros(1000, device=world.device), async_op=True)
        assert work is not None
        work.wait()
        torch.cuda.synchronize()
        seconds = [span.end - span.begin for span in traffic.flush()]
        return {name: value.cpu() for name, value in everything(trainer).items()}, seconds


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_engines_train_the_same_on_a_gpu(dtype: str, tmp_path: Path) -> None:
    ((expected, seconds),) = run_ranks(1, _train, tmp_path, "ddp", dtype)
    assert len(seconds) >= 2
    assert all(0 <= second < 10 for second in seconds), seconds
    for engine in ENGINES:
        ((found, _),) = run_ranks(1, _train, tmp_path / engine, engine, dtype)
        error, name = worst_error(found, expected)
        assert error < 1e-4, f"{engine}: {name} differs by {error:.1e}"


def test_fp16_trains_on_a_gpu(tmp_path: Path) -> None:
    ((found, _),) = run_ranks(1, _train, tmp_path, "ddp", "fp16")
    assert all(value.isfinite().all() for value in found.values())
