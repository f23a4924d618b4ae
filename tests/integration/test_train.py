"""The command its users type, from the outside: what it leaves behind, what it says, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError

from distgan import checkpoint, train
from distgan.data.shards.manifest import open_manifest
from distgan.engine.ddp import DdpEngine
from tests.shards import flip_bit, member_offsets, write_set

SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16", "--metrics.port", "0"]


def _train(run_dir: Path, *more: str) -> int:
    return train.main([*SMALL, "--run.dir", str(run_dir), "--train.total_kimg", "0.64", *more])


def _log(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def test_what_a_run_leaves_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["--metrics.log_every_kimg", "0.2", "--metrics.samples_every_kimg", "0.3", "--checkpoint.every_kimg", "0.3"]
    assert _train(run, *arguments) == 0
    stderr = capsys.readouterr().err
    assert f"Picture: {run / 'samples' / 'kimg-00000.640-ema.png'}" in stderr
    assert all(word in stderr for word in ("img/s", "data wait", "loss D", "loss G"))
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        *(f"kimg-{kimg}-{name}.png" for kimg in ("00000.320", "00000.640") for name in ("ema", "raw")),
        "real.png",
    ]
    assert Image.open(run / "samples" / "real.png").size == (10 * 66 + 2, 8 * 66 + 2)
    assert Image.open(run / "samples" / "kimg-00000.640-ema.png").size == (10 * 66 + 2, 8 * 66 + 2)
    assert checkpoint.steps(run / "checkpoints") == [5, 10]
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["total_kimg"] == 0.64
    start, *intervals = _log(run)
    assert start["event"] == "start"
    assert [line["num_images"] for line in intervals] == [256, 448, 640]
    statistics = {"discriminator_loss", "generator_loss", "penalty", "real_logit", "fake_logit", "discriminator_gradient_norm"}
    assert statistics <= intervals[-1].keys()


def test_the_same_command_again_has_nothing_left_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert _train(run) == 0
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*.safetensors")}
    assert _train(run) == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*.safetensors")} == before
    assert "Done at 0.64 kimg" in capsys.readouterr().err


def test_a_longer_run_goes_on_and_says_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert _train(run) == 0
    assert _train(run, "--train.total_kimg", "1.28", "--data.num_workers", "1") == 0
    stderr = capsys.readouterr().err
    assert "Changed since the last sitting: train.total_kimg from 0.64 to 1.28." in stderr
    resume = next(line for line in _log(run) if line.get("event") == "resume")
    assert resume["changed"] == {"data.num_workers": 1, "train.total_kimg": 1.28}
    assert checkpoint.steps(run / "checkpoints") == [10, 20]


def test_overwrite_moves_the_old_run_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _train(run) == 0
    assert _train(run, "--model.latent_size", "5", "--run.overwrite") == 0
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith("run.until-")]
    assert yaml.safe_load((old / "config.yaml").read_text())["model"]["latent_size"] == 100
    assert checkpoint.steps(old / "checkpoints") == [10]
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["latent_size"] == 5


def test_workers_started_again_do_not_overwrite_what_they_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert _train(run, "--run.overwrite") == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _train(run, "--run.overwrite", "--train.total_kimg", "1.28") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert checkpoint.steps(run / "checkpoints") == [10, 20]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _train(run) == 0
    shutil.rmtree(run / "checkpoints")
    assert _train(run) == 0
    assert [line["event"] for line in _log(run) if "event" in line] == ["start", "start"]


def test_a_run_without_a_checkpoint_binds_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was learnt: a slip of the first command can be mended in the second."""
    stream = ["--data.mode", "stream", "--data.resolution", "8", "--data.channels", "1", "--data.num_workers", "0"]
    assert _train(tmp_path / "run", *stream, "--data.url", "pipe:cat no-such-file") == 1
    assert "the last checkpoint" not in capsys.readouterr().err
    (shard,) = write_set(tmp_path / "shards", [100])
    assert _train(tmp_path / "run", *stream, "--data.url", f"pipe:cat {shard}", "--model.latent_size", "5") == 0


def test_data_that_has_moved_is_the_same_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "shards", [40, 60])
    assert _train(tmp_path / "run", "--data.url", str(tmp_path / "shards")) == 0
    shutil.move(tmp_path / "shards", tmp_path / "moved")
    assert _train(tmp_path / "run", "--data.url", str(tmp_path / "moved"), "--train.total_kimg", "1.28") == 0
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [10, 20]
    assert f"data.url from {str(tmp_path / 'shards')!r} to {str(tmp_path / 'moved')!r}" in capsys.readouterr().err
    write_set(tmp_path / "others", [40, 61])
    assert _train(tmp_path / "run", "--data.url", str(tmp_path / "others"), "--train.total_kimg", "1.92") == 2
    assert "whose content has changed since the run" in capsys.readouterr().err


def test_a_full_disk_costs_a_checkpoint_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def full_at_first(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path)

    save_file = checkpoint.safetensors.torch.save_file
    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full_at_first)
    assert _train(tmp_path / "run", "--checkpoint.every_kimg", "0.3") == 0
    assert (
        "warning: the checkpoint of iteration 5 was not saved (Error while serializing: I/O error: No space left" in capsys.readouterr().err
    )
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [10]


def test_one_gradient_that_is_not_finite_is_skipped_by_both_moments_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = DdpEngine.step, []

    def poisoned(engine: DdpEngine):
        calls.append(engine.state())
        if len(calls) == 5:  # the discriminator's third step
            parameter = next(engine._network.parameters())
            assert parameter.grad is not None
            parameter.grad[0] = float("nan")
            before = {name: value.clone() for name, value in (engine.state().network | engine.state().optimizer).items()}
            result = step(engine)
            after = engine.state().network | engine.state().optimizer
            assert result.skipped == 1
            assert [name for name in before if not torch.equal(before[name], after[name])] == []
            return result
        return step(engine)

    monkeypatch.setattr(DdpEngine, "step", poisoned)
    assert _train(tmp_path / "run") == 0
    assert _log(tmp_path / "run")[-1]["discriminator_skipped_share"] == 0.1


def test_a_run_that_only_skips_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"The last 20 steps of the (dis|gen).* lower .*learning_rate"):
        _train(
            *(tmp_path / "run", "--discriminator_optimizer.learning_rate", "1e30"),
            *("--metrics.log_every_kimg", "0.064", "--train.total_kimg", "100"),
        )


def test_eight_ranks_as_the_readme_types_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "8", "-m", "distgan.train"]
    arguments = [*SMALL, "--run.dir", str(tmp_path / "run"), "--train.total_kimg", "0.128"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert checkpoint.read_state(tmp_path / "run" / "checkpoints", 2)["num_ranks"] == 8
    assert "Warning" not in result.stderr, result.stderr


def test_damage_under_way_ends_a_run_by_one_sentence_or_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bit that has flipped since the shard was indexed, and did not change the file's time."""
    (shard,) = write_set(tmp_path / "shards", [96], side=32)
    open_manifest([shard])
    times = shard.stat()
    flip_bit(shard, member_offsets(shard)["000070.png"][1] + 60)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _train(tmp_path / "run", "--data.url", str(shard)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(
        f"distgan.train: error: The sample '000070' of {shard} is not what its index says: it was damaged. Put the right"
    )
    assert _train(tmp_path / "run", "--data.url", str(shard), "--data.on_error", "skip", "--data.max_skipped_share", "0.02") == 0
    assert f"warning: skipped: The sample '000070' of {shard} is not what its index says" in capsys.readouterr().err
    assert [(event["shard"], event["key"]) for event in _log(tmp_path / "run") if event.get("event") == "skip"] == [(str(shard), "000070")]
