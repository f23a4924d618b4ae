"""Training through the compiled operators and through their reference twins: the same weights."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml

from distgan.ops import library
from tests.training import everything, settings, trainer_of, worst_error

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
SMALLER = {
    "digits-sngan": {"generator_channels": 8, "discriminator_channels": 8},
    "digits-wgan-gp": {"generator_channels": 8, "discriminator_channels": 8},
}


def trained(run_dir: Path, recipe: str, iterations: int, *, compiled: bool) -> dict[str, torch.Tensor]:
    """Everything that training has moved after some iterations of a recipe, with fewer channels and a small batch."""
    values = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    values["model"] |= SMALLER[recipe]
    values["train"]["batch_size"] = 16
    with nullcontext() if compiled else library.reference_twins(), trainer_of(settings(run_dir, **values)) as trainer:
        for _ in range(iterations):
            trainer.iterate()
        return everything(trainer)


@pytest.mark.parametrize("recipe", SMALLER)
def test_operators_and_twins_train_the_same_weights(tmp_path: Path, recipe: str) -> None:
    assert library.is_compiled("cpu")
    operators, twins = (trained(tmp_path / str(compiled), recipe, 3, compiled=compiled) for compiled in (True, False))
    error, name = worst_error(operators, twins)
    assert error < 1e-4, name
    untrained = trained(tmp_path / "untrained", recipe, 0, compiled=True)
    assert any("weight" in key and not torch.equal(operators[key], untrained[key]) for key in untrained)
