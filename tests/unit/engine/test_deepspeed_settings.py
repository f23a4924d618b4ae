"""What DeepSpeed is told: the run's own settings first, everything else as the user's file has it."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from distgan.cli import parse_command
from distgan.config import TrainConfig
from distgan.engine import deepspeed_settings


def config(*arguments: str) -> TrainConfig:
    return parse_command(["--engine.name", "deepspeed", *arguments]).config


def test_without_a_file_everything_comes_from_the_run() -> None:
    settings = deepspeed_settings.complete(config("--engine.zero_stage", "2", "--engine.accumulation_steps", "4"), 2, None, 1234)
    assert settings["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1234}
    assert settings["train_micro_batch_size_per_gpu"] == 64 // (2 * 4)
    assert settings["gradient_accumulation_steps"] == 1
    assert settings["gradient_clipping"] == 0.0, "DeepSpeed's own default is 1.0"


def test_a_file_adds_what_the_run_does_not_decide(tmp_path: Path) -> None:
    theirs = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "wall_clock_breakdown": True,
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": 1000, "overlap_comm": False, "allgather_bucket_size": "auto"},
    }
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(theirs))
    chosen = config("--engine.zero_stage", "1", "--engine.deepspeed_config", str(path))
    assert deepspeed_settings.problems(chosen, world_size=2) == []
    settings = deepspeed_settings.complete(chosen, 2, max_gradient_norm=0.5, bucket_numel=1234)
    assert settings["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": False}
    assert settings["wall_clock_breakdown"] is True
    assert settings["gradient_clipping"] == 0.5
    assert settings["train_micro_batch_size_per_gpu"] == 32
    assert not settings.keys() & {"bf16", "fp16", "train_batch_size"}


def test_one_limit_in_a_file_cannot_stand_for_two(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"gradient_clipping": 0.5}')
    limits = ["--discriminator_optimizer.max_gradient_norm", "0.5"]
    files = ["--engine.deepspeed_config", str(path)]
    (problem,) = deepspeed_settings.problems(config(*files, *limits), 1)
    assert problem.startswith("gradient_clipping is 0.5 in engine.deepspeed_config")
    assert deepspeed_settings.problems(config(*files, *limits, "--generator_optimizer.max_gradient_norm", "0.5"), 1) == []


@pytest.mark.parametrize(("version", "is_refused"), [("0.18.3", True), ("0.19.3", True), ("0.19.4", False), ("1.0.0+local", False)])
def test_releases_with_wrong_gradients_are_refused(version: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    problems = deepspeed_settings.problems(config(), 1)
    assert len(problems) == is_refused
    assert not is_refused or f"DeepSpeed {version} is installed" in problems[0]
    assert deepspeed_settings.problems(parse_command([]).config, 1) == [], "DDP does not care"


def test_without_deepspeed_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    (problem,) = deepspeed_settings.problems(config(), 1)
    assert "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed" in problem
