"""Mixed precision: what is lowered, what never is, and how fp16 is kept from vanishing and overflowing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distgan import checkpoint
from distgan.engine.ddp import DdpEngine
from distgan.phases import frozen
from tests.training import SMALL_MODELS, everything, relative_error, settings, trainer_of

LOWERED = {"bf16": torch.bfloat16, "fp16": torch.float16}
MODEL = SMALL_MODELS["dcgan"] | {"discriminator_norm": "spectral"}


def _first_gradients(directory: Path, dtype: str) -> tuple[dict[str, torch.Tensor], list[torch.dtype]]:
    """Of each part at the start of a run, without an engine; and of what the last convolution of the discriminator gave in each forward."""
    seen: list[torch.dtype] = []
    with trainer_of(settings(directory / dtype, model=MODEL, precision={"dtype": dtype})) as trainer:
        phase, gradients = trainer.discriminator_phase, {}
        convolutions = [module for module in phase.network.modules() if isinstance(module, torch.nn.Conv2d)]
        convolutions[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        (batch,) = [phase.with_fakes(batch) for batch in trainer.feed.for_discriminator(0)]
        assert batch.fake_images is not None
        assert batch.fake_images.dtype == torch.float32
        for part in ("penalty", "loss"):
            value, statistics = phase(part, batch)
            assert {value.dtype, *(statistic.dtype for statistic in statistics.values())} == {torch.float32}
            value.backward()
            for name, parameter in phase.network.named_parameters():
                if parameter.grad is not None:
                    gradients[f"{part}:{name}"] = parameter.grad.clone()
            phase.network.zero_grad()
        (batch,) = trainer.feed.for_generator(0, [batch])
        with frozen(phase.network):
            trainer.generator_phase("loss", batch)[0].backward()
        for name, parameter in trainer.generator_phase.network.named_parameters():
            assert parameter.grad is not None
            gradients[f"generator:{name}"] = parameter.grad.clone()
    return gradients, seen


@pytest.mark.parametrize("dtype", LOWERED)
def test_losses_are_lowered_and_penalties_are_not(dtype: str, tmp_path: Path) -> None:
    full, _ = _first_gradients(tmp_path, "fp32")
    lowered, seen = _first_gradients(tmp_path, dtype)
    assert seen == [torch.float32, LOWERED[dtype], LOWERED[dtype], LOWERED[dtype]], "penalty, real, fake, the generator's"
    assert {gradient.dtype for gradient in lowered.values()} == {torch.float32}
    for name, gradient in lowered.items():
        error = relative_error(gradient, full[name])
        if name.startswith("penalty:"):
            assert error < 1e-6, f"{name}: {error:.1e}"  # of the same weights on real images
        elif name.startswith("loss:"):
            assert 0 < error < 0.1, f"{name}: {error:.1e}"


def _poison(engine: DdpEngine) -> None:
    parameter = next(engine._network.parameters())
    assert parameter.grad is not None
    parameter.grad.view(-1)[0] = float("inf")


def test_an_overflow_of_fp16_halves_the_scale_and_moves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trainer_of(settings(tmp_path / "run", model=SMALL_MODELS["mlp"], precision={"dtype": "fp16"})) as trainer:
        for _ in range(3):
            trainer.iterate()
        engine = trainer.discriminator_engine
        assert isinstance(engine, DdpEngine)
        before, scale = everything(trainer), engine.state().loss_scale["scale"]
        (batch,) = [trainer.discriminator_phase.with_fakes(batch) for batch in trainer.feed.for_discriminator(3)]
        engine.backward("loss", batch, last=True)
        _poison(engine)
        assert engine.step().skipped == 1
        after = everything(trainer)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert engine.state().loss_scale["scale"] == scale / 2
        assert trainer.generator_engine.state().loss_scale["scale"] >= scale, "each network has a scale of its own"


def test_the_step_of_fp16_does_not_depend_on_the_scale(tmp_path: Path) -> None:
    """It is divided out before the norm, the limit and Adam; what is left is that gradients below 6e-5 / scale lose bits in fp16."""
    results: list[Any] = []
    for scale in (2.0**8, 2.0**12):
        sections: dict[str, dict[str, Any]] = {
            "model": SMALL_MODELS["mlp"],
            "precision": {"dtype": "fp16"},
            "discriminator_optimizer": {"max_gradient_norm": 0.5},
        }
        with trainer_of(settings(tmp_path / str(scale), **sections)) as trainer:
            for engine in (trainer.discriminator_engine, trainer.generator_engine):
                assert isinstance(engine, DdpEngine)
                assert engine._scaler is not None
                engine._scaler.load_state_dict(engine._scaler.state_dict() | {"scale": scale})
            for _ in range(3):
                trainer.iterate()
            results.append(everything(trainer))
    assert max(relative_error(results[0][name], results[1][name]) for name in results[0]) < 1e-3


def test_the_scale_is_in_the_checkpoint(tmp_path: Path) -> None:
    values = settings(tmp_path / "run", model=SMALL_MODELS["mlp"], precision={"dtype": "fp16"})
    with trainer_of(values) as trainer:
        trainer.iterate()
        assert isinstance(trainer.generator_engine, DdpEngine)
        assert trainer.generator_engine._scaler is not None
        trainer.generator_engine._scaler.update(1234.0)
        trainer.saver.save()
        saved = trainer.generator_engine.state().loss_scale
    assert "generator_loss_scale" in checkpoint.load(tmp_path / "run" / "checkpoints", 1).tensors
    with trainer_of(values) as trainer:
        assert trainer.generator_engine.state().loss_scale == saved
        assert saved["scale"] == 1234
