"""Checkpoints: safetensors + JSON + a checksum per file, in a directory that is written aside and renamed. No pickle.

checkpoints/step-00001250/
    generator.safetensors  discriminator.safetensors  ema.safetensors
    generator_optimizer.safetensors  discriminator_optimizer.safetensors  (fp16: *_loss_scale.safetensors)
    state.json       counters, data position, seed, versions
    checksums.json   SHA-256 of every other file
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from distgan.data.shards.index import sha256_of
from distgan.files import sync_directory, write_atomically

VERSION = 1
CHECKSUMS = "checksums.json"
STATE = "state.json"


class DamagedCheckpointError(RuntimeError):
    """A checkpoint's files are not what its checksums say."""


@dataclass(frozen=True)
class Checkpoint:
    """Named groups of named tensors, and everything else as JSON values."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict


def save(directory: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write directory/step-########, then remove all but the newest `keep` checkpoints and what a crash left half-written.

    Raises:
        OSError: the disk is full or gone; the older checkpoints are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    target = directory / f"step-{step:08d}"
    aside = directory / f".{target.name}.tmp"
    aside.mkdir()
    try:
        for name, tensors in checkpoint.tensors.items():
            on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            path = aside / f"{name}.safetensors"
            try:
                safetensors.torch.save_file(on_cpu, path)
            except SafetensorError as error:  # a full disk, in that library's words
                raise OSError(str(error)) from error
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        write_atomically(aside / STATE, json.dumps({"version": VERSION} | checkpoint.state, indent=2).encode())
        checksums = {path.name: sha256_of(path) for path in sorted(aside.iterdir())}
        write_atomically(aside / CHECKSUMS, json.dumps(checksums, indent=2).encode())
        if target.exists():  # the same step again: an earlier attempt came just as far
            shutil.rmtree(target)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_directory(directory)
    for number in steps(directory)[:-keep]:
        shutil.rmtree(directory / f"step-{number:08d}")
    return target


def steps(directory: Path) -> list[int]:
    """The steps of the finished checkpoints, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in directory.glob("step-" + "[0-9]" * 8))


def verify(path: Path) -> None:
    """Raise DamagedCheckpointError unless every file is there and has its checksum."""
    try:
        checksums = json.loads((path / CHECKSUMS).read_text())
        damaged = [name for name, checksum in checksums.items() if sha256_of(path / name) != checksum]
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is damaged ({error})") from None
    if damaged:
        raise DamagedCheckpointError(f"{path} is damaged: {', '.join(damaged)} differ from their checksums")


def newest_intact(directory: Path) -> tuple[int | None, list[str]]:
    """The newest step whose files verify (None: there is none), and a sentence for each newer one that does not."""
    warnings = []
    for step in reversed(steps(directory)):
        try:
            verify(directory / f"step-{step:08d}")
            return step, warnings
        except DamagedCheckpointError as error:
            warnings.append(str(error))
    return None, warnings


def time_of(directory: Path, step: int) -> float:
    """When a checkpoint was written, in seconds since 1970."""
    return (directory / f"step-{step:08d}" / CHECKSUMS).stat().st_mtime


def read_state(directory: Path, step: int) -> dict:
    """The JSON part of a checkpoint."""
    return json.loads((directory / f"step-{step:08d}" / STATE).read_text())


def newest_readable_state(directory: Path) -> dict:
    """The JSON part of the newest checkpoint that has one, without reading any tensor; empty if there is none."""
    for step in reversed(steps(directory)):
        try:
            return read_state(directory, step)
        except (OSError, ValueError):
            continue
    return {}


def load_tensors(directory: Path, step: int, group: str) -> dict[str, Tensor]:
    """One group of a checkpoint's tensors, on the CPU."""
    return safetensors.torch.load_file(directory / f"step-{step:08d}" / f"{group}.safetensors")


def load(directory: Path, step: int) -> Checkpoint:
    """A whole checkpoint, tensors on the CPU. Verify it first."""
    groups = [path.stem for path in (directory / f"step-{step:08d}").glob("*.safetensors")]
    return Checkpoint({group: load_tensors(directory, step, group) for group in groups}, read_state(directory, step))
