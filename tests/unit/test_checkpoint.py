"""Checkpoints: what is saved comes back to the bit; a crash or damage never costs an older one."""

import json
from pathlib import Path

import pytest
import safetensors
import torch

from distgan import checkpoint
from distgan.checkpoint import Checkpoint, DamagedCheckpointError


def _checkpoint(value: float) -> Checkpoint:
    tensors = {
        "generator": {"weight": torch.full((3, 2), value), "mask": torch.tensor([True, False]), "count": torch.tensor(7)},
        "generator_optimizer": {"weight/exp_avg": torch.tensor([float("inf"), -0.0]).to(torch.bfloat16)},
        "empty": {},
    }
    return Checkpoint(tensors, {"iteration": int(value), "nested": {"list": [1, None, "ü"]}})


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = _checkpoint(3)
    path = checkpoint.save(tmp_path, 3, saved, keep=2)
    assert path.name == "step-00000003"
    loaded = checkpoint.load(tmp_path, 3)
    assert loaded.state == {"version": 1} | saved.state
    assert loaded.tensors.keys() == saved.tensors.keys()
    for group, tensors in saved.tensors.items():
        assert loaded.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded.tensors[group][name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[group][name], tensor)


def test_views_and_shared_memory_are_saved_as_they_read(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    checkpoint.save(tmp_path, 1, Checkpoint({"g": {"transposed": base.T, "row": base[1]}}, {}), keep=1)
    loaded = checkpoint.load(tmp_path, 1).tensors["g"]
    assert torch.equal(loaded["transposed"], base.T)
    assert torch.equal(loaded["row"], base[1])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 300, 4000):
        checkpoint.save(tmp_path, step, _checkpoint(step), keep=2)
    assert checkpoint.steps(tmp_path) == [300, 4000]


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "gone"])
def test_damage_to_any_file_is_noticed(name: str, damage: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, _checkpoint(1), keep=3)
    path = checkpoint.save(tmp_path, 2, _checkpoint(2), keep=3) / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped bit" else content[:-1])
    with pytest.raises(DamagedCheckpointError, match=f"step-00000002 is damaged.*{name}"):
        checkpoint.verify(tmp_path / "step-00000002")
    newest, warnings = checkpoint.newest_intact(tmp_path)
    assert newest == 1
    assert len(warnings) == 1


def test_a_checkpoint_without_checksums_is_not_trusted(tmp_path: Path) -> None:
    (checkpoint.save(tmp_path, 1, _checkpoint(1), keep=1) / checkpoint.CHECKSUMS).unlink()
    assert checkpoint.newest_intact(tmp_path)[0] is None


def test_a_failed_save_leaves_the_older_ones_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, _checkpoint(1), keep=1)

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, _checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.verify(tmp_path / "step-00000001")


def test_what_a_crash_left_half_written_is_removed_and_never_read(tmp_path: Path) -> None:
    (tmp_path / ".step-00000009.tmp").mkdir(parents=True)
    (tmp_path / ".step-00000009.tmp" / "generator.safetensors").write_bytes(b"half")
    assert checkpoint.newest_intact(tmp_path) == (None, [])
    checkpoint.save(tmp_path, 1, _checkpoint(1), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_files_are_plain_safetensors_and_json(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, _checkpoint(5), keep=1)
    with safetensors.safe_open(path / "generator.safetensors", "pt") as file:
        assert set(file.keys()) == {"weight", "mask", "count"}
    checksums = json.loads((path / "checksums.json").read_text())
    assert set(checksums) == {entry.name for entry in path.iterdir()} - {"checksums.json"}
