"""The count of operations, against closed forms worked out by hand and against torch's profiler."""

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distgan.metrics import flops, reporter
from distgan.metrics.flops import FlopCount
from distgan.ops import library, spectral_norm
from tests.training import SMALL_MODELS, everything, settings, trainer_of

N = 24  # images of a batch
PIXELS = 32 * 32  # of the digits
LATENTS = 100


def _dense(*sizes: int) -> list[int]:
    """Of each layer between layers of these sizes: a multiply and an add for each sample and weight."""
    return [2 * N * inputs * outputs for inputs, outputs in pairwise(sizes)]


# Of one forward, by layer.
MLP_GENERATOR, MLP_DISCRIMINATOR = _dense(LATENTS, 32, 32, PIXELS), _dense(PIXELS, 32, 32, 1)
# Convolutions of 4x4 that halve the image, for each sample, output pixel and weight; then one layer to the logit.
DCGAN_DISCRIMINATOR = [2 * N * 16**2 * (1 * 4) * 4**2, 2 * N * 8**2 * (4 * 8) * 4**2, 2 * N * 4**2 * (8 * 16) * 4**2, 2 * N * 4**2 * 16]
# A projection to 4x4, then transposed convolutions of 4x4 that double the image, for each sample, INPUT pixel and weight.
DCGAN_GENERATOR = [
    2 * N * LATENTS * 16 * 4**2,
    2 * N * 4**2 * (16 * 8) * 4**2,
    2 * N * 8**2 * (8 * 4) * 4**2,
    2 * N * 16**2 * (4 * 1) * 4**2,
]
FORWARDS = {"mlp": (MLP_GENERATOR, MLP_DISCRIMINATOR), "dcgan": (DCGAN_GENERATOR, DCGAN_DISCRIMINATOR)}


def sections(model: str, **penalty: Any) -> dict[str, dict[str, Any]]:
    return {"model": SMALL_MODELS[model], "penalty": {"name": "r1", "every": 2} | penalty, "train": {"batch_size": N}}


def _by_part(counted: FlopCount) -> dict[str, int]:
    """{'fakes' or 'network part': operations of a call}."""
    return {" ".join(str(name) for name in kind if isinstance(name, str)): number for kind, number in counted._of_kind.items()}


def needed(model: str) -> dict[str, int]:
    """Operations of each part, with R1."""
    generator, discriminator = (sum(layers) for layers in FORWARDS[model])
    first_of_generator, first = (layers[0] for layers in FORWARDS[model])
    head = FORWARDS[model][1][-1]
    return {
        "fakes": generator,
        # Forward, input gradient, and the derivatives of that in the weights and in the gradient that came from above, which at the
        # top is constant. A piecewise linear network has no others.
        "discriminator penalty": 4 * discriminator - head,
        # Real and fake images; a backward takes twice a forward, but nobody asks for the images' gradient.
        "discriminator loss": 2 * (3 * discriminator - first),
        # The frozen discriminator has no weight gradients, but one of its images.
        "generator loss": 3 * generator - first_of_generator + 2 * discriminator,
    }


@pytest.mark.parametrize("model", FORWARDS)
def test_each_part_computes_what_its_layers_need(model: str, tmp_path: Path) -> None:
    with trainer_of(settings(tmp_path / "run", **sections(model))) as trainer:
        trainer.iterate()
        parts, with_penalty = _by_part(trainer.reporter._flops), trainer.reporter._flops.total
        trainer.iterate()
        without_penalty = trainer.reporter._flops.total - with_penalty
    assert parts == needed(model)
    assert with_penalty == sum(parts.values())
    assert without_penalty == with_penalty - parts["discriminator penalty"]


@pytest.mark.parametrize(
    "penalty",
    [{"formulation": "double_backward"}, {"formulation": "forward_over_reverse"}, {"name": "wgan_gp"}, {"name": "approximated_r1"}],
    ids=lambda penalty: "-".join(penalty.values()),
)
def test_the_profiler_counts_as_many(penalty: dict[str, str], tmp_path: Path) -> None:
    """It looks below the dispatcher and has formulas of its own; of a dense network these are all products."""
    with trainer_of(settings(tmp_path / "run", **sections("mlp", **penalty))) as trainer:
        trainer.iterate()
        before = trainer.reporter._flops.total
        trainer.iterate()
        trainer.state.iteration = 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
            trainer.iterate()
    events = profile.key_averages()
    assert before == sum(event.flops for event in events if event.key in ("aten::mm", "aten::addmm"))


@pytest.mark.parametrize("compiled", [True, False])
def test_spectral_norms_count(compiled: bool) -> None:
    layer = spectral_norm(nn.Linear(6, 5, bias=False))
    counted = FlopCount()
    with nullcontext() if compiled else library.reference_twins():
        for iterate in (True, False):
            with counted.call("forward", iterate):
                layer.normalised(iterate=iterate)
    # W v and W^T (W v), or u^T W v; the twin takes the norm once more, for its derivative.
    again = 0 if compiled else 2 * 30 + 2 * 5
    assert counted._of_kind == {("forward", True): 4 * 30 + again, ("forward", False): 2 * 30 + 2 * 5 + again}
    if compiled:
        total = layer.normalised(iterate=False)(torch.eye(6)).sum()
        with counted.call("backward"):
            total.backward()
        # The weight's gradient of x W^T, then <G, W> and the outer product of u and v taken away from G.
        assert counted._of_kind["backward",] == 2 * 6 * 30 + 4 * 30


def test_a_kind_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, product = FlopCount(), torch.ones(2, 3)
    with counted.call("product", (2, 3)):
        product @ product.T
    monkeypatch.setattr(flops, "_Counting", lambda: pytest.fail("counted again"))
    with counted.call("product", (2, 3)):
        product @ product.T
    assert counted.total == 2 * (2 * 2 * 2 * 3)


class _Recount(FlopCount):
    """Every call is counted."""

    def call(self, *kind: object) -> Any:
        self._of_kind.clear()
        return super().call(*kind)


def test_calls_of_a_kind_compute_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where spectral norms iterate in one call and not in the next."""
    asked = sections("dcgan") | {"engine": {"accumulation_steps": 2}, "train": {"discriminator_steps": 2}}
    asked["model"] = SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral"}
    totals = []
    for count in (FlopCount, _Recount):
        monkeypatch.setattr(reporter, "FlopCount", count)
        with trainer_of(settings(tmp_path / count.__name__, **asked)) as trainer:
            for _ in range(3):
                trainer.iterate()
            totals.append(trainer.reporter._flops.total)
    assert totals[0] == totals[1]


class NoCount(FlopCount):
    """Nothing is counted."""

    def call(self, *kind: object) -> Any:
        return nullcontext()


@pytest.mark.parametrize(
    ("model", "penalty", "dtype"),
    [
        ({"name": "mlp"}, {"formulation": "double_backward"}, "fp32"),
        ({"name": "mlp", "conditional": True}, {"formulation": "forward_over_reverse"}, "fp32"),
        ({"name": "dcgan"}, {"formulation": "double_backward"}, "bf16"),
        ({"name": "dcgan", "discriminator_norm": "spectral", "conditional": True}, {"formulation": "forward_over_reverse"}, "fp32"),
        ({"name": "dcgan"}, {"name": "approximated_r1"}, "bf16"),
        ({"name": "sngan", "conditional": True}, {"name": "wgan_gp"}, "fp32"),
    ],
    ids=lambda value: "-".join(str(option) for option in value.values()) if isinstance(value, dict) else value,
)
def test_counting_changes_no_number(
    model: dict[str, Any], penalty: dict[str, str], dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sections(model["name"], **penalty) | {"precision": {"dtype": dtype}, "engine": {"accumulation_steps": 2}}
    asked["model"] = SMALL_MODELS[model["name"]] | model
    trained = []
    for name, count in (("with", FlopCount), ("without", NoCount)):
        monkeypatch.setattr(reporter, "FlopCount", count)
        with trainer_of(settings(tmp_path / name, **asked)) as trainer:
            for _ in range(3):
                trainer.iterate()
            trained.append(everything(trainer))
            assert (trainer.reporter._flops.total > 0) == (name == "with")
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name
