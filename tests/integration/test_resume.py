"""The same command again goes on as if nothing had happened: bitwise, whatever ended the run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan import checkpoint
from distgan.data.reading.upload import OnDevice, Upload
from tests.training import SMALL_MODELS, everything, settings, trainer_of, worst_error

GUARD_SECONDS = 120


class Recording:
    """Passes real images on and remembers which samples went through."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.numbers: list[np.ndarray] = []

    def __next__(self) -> OnDevice:
        real = next(self._upload)
        self.numbers.append(real.numbers)
        return real


def _iterate(values: dict, iterations: int, *, save: bool) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Go on with the run for some iterations; everything it holds after, and the samples it saw."""
    with trainer_of(values) as trainer:
        trainer.feed._upload = recorder = Recording(trainer.feed._upload)  # type: ignore[assignment]
        for _ in range(iterations):
            trainer.iterate()
        if save:
            trainer.saver.save()
        return everything(trainer), np.concatenate(recorder.numbers)


@pytest.mark.parametrize("penalty", ["r1", "wgan_gp"])
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_five_iterations_equal_two_and_three(model: str, penalty: str, tmp_path: Path) -> None:
    sections = {
        "model": SMALL_MODELS[model] | {"conditional": True},
        "penalty": {"name": penalty, "every": 3},
        "train": {"discriminator_steps": 2},
        "engine": {"accumulation_steps": 2},
        "data": {"augment": {"flip": True, "rotation_degrees": 20, "shift": 0.1, "zoom": 0.2}},
    }
    whole, whole_numbers = _iterate(settings(tmp_path / "whole", **sections), 5, save=False)
    _, first_numbers = _iterate(settings(tmp_path / "parts", **sections), 2, save=True)
    parts, second_numbers = _iterate(settings(tmp_path / "parts", **sections), 3, save=False)
    assert np.array_equal(whole_numbers, np.concatenate([first_numbers, second_numbers]))
    different = [name for name in whole if not torch.equal(whole[name], parts[name])]
    assert different == []


DCGAN = ("--model.name", "dcgan", "--model.generator_channels", "4", "--model.discriminator_channels", "4")
MLP = ("--model.name", "mlp", "--model.generator_sizes", "32", "--model.discriminator_sizes", "32")


def _command(run_dir: Path, *more: str, model: tuple[str, ...] = DCGAN) -> list[str]:
    return [
        *(sys.executable, "-m", "distgan.train", "--run.dir", str(run_dir), "--metrics.port", "0", *model),
        *("--train.batch_size", "16", "--train.total_kimg", "4", "--checkpoint.every_kimg", "0.4", "--checkpoint.keep", "100"),
        *more,
    ]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)


def _final(run_dir: Path) -> dict[str, torch.Tensor]:
    directory = run_dir / "checkpoints"
    saved = checkpoint.load(directory, checkpoint.steps(directory)[-1])
    return {f"{group}:{name}": value for group, tensors in saved.tensors.items() for name, value in tensors.items()}


def _wait_for_checkpoint(run_dir: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not checkpoint.steps(run_dir / "checkpoints"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    result = _run(_command(run_dir))
    assert result.returncode == 0, result.stderr
    return _final(run_dir)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75), (signal.SIGINT, 75)])
def test_a_run_that_was_ended_goes_on_bitwise(
    number: signal.Signals, exit_code: int, uninterrupted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = subprocess.Popen(_command(run_dir), stderr=subprocess.PIPE, text=True)
    _wait_for_checkpoint(run_dir, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == exit_code, stderr
    state = checkpoint.read_state(run_dir / "checkpoints", checkpoint.steps(run_dir / "checkpoints")[-1])
    assert 0 < state["num_images"] < 4000
    resumed = _run(_command(run_dir))
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming" in resumed.stderr
    final = _final(run_dir)
    assert [name for name in final if not torch.equal(final[name], uninterrupted[name])] == []


def test_a_run_of_two_ranks_goes_on_with_one(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    three_iterations, five_iterations = ("--train.total_kimg", "0.048"), ("--train.total_kimg", "0.08")
    # Fully connected: float32 in convolutional networks is told apart by ReLUs (tests/distributed/test_rank_parity.py).
    assert _run(_command(tmp_path / "one rank", *five_iterations, model=MLP)).returncode == 0
    first = _run([*torchrun, *_command(tmp_path / "run", *three_iterations, model=MLP)[1:]])
    assert first.returncode == 0, first.stderr
    second = _run(_command(tmp_path / "run", *five_iterations, model=MLP))
    assert second.returncode == 0, second.stderr
    assert "train.total_kimg from 0.048 to 0.08" in second.stderr
    error, name = worst_error(_final(tmp_path / "run"), _final(tmp_path / "one rank"))
    assert error < 1e-5, name


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert _run(_command(run_dir, "--train.total_kimg", "1")).returncode == 0
    steps = checkpoint.steps(run_dir / "checkpoints")
    newest = run_dir / "checkpoints" / f"step-{steps[-1]:08d}" / "generator.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    result = _run(_command(run_dir, "--train.total_kimg", "1"))
    assert result.returncode == 0, result.stderr
    assert f"step-{steps[-1]:08d} is damaged: generator.safetensors" in result.stderr
    assert "Resuming" in result.stderr
    checkpoint.verify(run_dir / "checkpoints" / f"step-{steps[-1]:08d}")
