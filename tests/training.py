"""Training a few iterations inside a test; on several ranks by `tests.ranks`."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from distgan import build, feed
from distgan.build import built_trainer, check
from distgan.cli import validate
from distgan.distributed import World
from distgan.images import to_float
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Traffic
from distgan.randomness import Randomness
from distgan.trainer import Trainer

SMALL_MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "generator_sizes": [32, 32], "discriminator_sizes": [32, 32]},
    "dcgan": {"name": "dcgan", "generator_channels": 4, "discriminator_channels": 4},
    "sngan": {"name": "sngan", "generator_channels": 4, "discriminator_channels": 4},
}


def settings(run_dir: Path, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Nested settings for a short run on the digits, without a metrics port."""
    values: dict[str, dict[str, Any]] = {
        "run": {"dir": str(run_dir)},
        "train": {"batch_size": 24, "total_kimg": 1},
        "data": {"num_workers": 0},
        "model": SMALL_MODELS["mlp"],
        "metrics": {"port": 0},
    }
    for section, options in sections.items():
        values[section] = options if section == "model" else values.get(section, {}) | options
    return values


@contextmanager
def trainer_of(values: dict[str, dict[str, Any]], world: World | None = None, dtype: torch.dtype = torch.float32):
    """A `Trainer` for these settings in this process; training itself is fp32, so another dtype is put under it from here."""
    world = world or World.from_environment()
    config = validate(values)
    preflight = check(config, world.size)
    Path(config.run.dir, "samples").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_networks", _cast(build.build_networks, dtype))
        patch.setattr(feed, "to_float", lambda images: to_float(images).to(dtype))
        patch.setattr(Randomness, "normal", _cast(Randomness.normal, dtype))
        with Traffic().counting() as traffic, built_trainer(config, world, preflight, Exporter(restarts=0), traffic) as trainer:
            yield trainer


def _cast(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """The same function, its networks or tensors of `dtype`."""

    def cast(*arguments: Any) -> Any:
        result = function(*arguments)
        return tuple(part.to(dtype) for part in result) if isinstance(result, tuple) else result.to(dtype)

    return cast


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor that training moves, by a full name."""
    discriminator, generator = trainer.discriminator_engine.state(), trainer.generator_engine.state()
    groups = {
        "discriminator": discriminator.network,
        "discriminator_optimizer": discriminator.optimizer,
        "generator": generator.network,
        "generator_optimizer": generator.optimizer,
        "ema": trainer.ema.network.state_dict(),
    }
    return {f"{group}:{name}": value.detach().clone() for group, tensors in groups.items() for name, value in tensors.items()}


def relative_error(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    """|tensor - reference| / |reference| in the Euclidean norm, in float64."""
    difference = (tensor.double() - reference.double()).norm()
    return float(difference / reference.double().norm().clamp_min(1e-30))


def worst_error(tensors: dict[str, torch.Tensor], references: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest `relative_error` of all and the name of that tensor."""
    assert tensors.keys() == references.keys()
    return max((relative_error(tensors[name], references[name]), name) for name in references)
