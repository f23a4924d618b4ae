"""Every command of the README that is not a make target (those CI runs) is run as it is written, only shorter."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distgan.data.decoding import decode
from distgan.data.writer import Sample, write_shards
from distgan.png import encode_png
from tests.digit_classifier import digits

README = Path(__file__).parents[2] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("make ")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the README would stand: recipes, their own images, the file of the example."""
    directory = tmp_path_factory.mktemp("readme")
    for folder in ("docs", "launch"):
        (directory / folder).symlink_to(README.parent / folder)
    images, labels = digits.load_images()
    samples = [Sample(f"{number:04d}", encode_png(images[number]), int(labels[number])) for number in range(200)]
    write_shards(samples, directory / "written", samples_per_shard=100)
    (directory / "photos").mkdir()
    for number in range(2):
        (directory / "written" / f"{number:06d}.tar").rename(directory / "photos" / f"shard-{number:03d}.tar")
    for number in range(100):
        (directory / "pictures" / str(labels[number])).mkdir(parents=True, exist_ok=True)
        (directory / "pictures" / str(labels[number]) / f"{number}.png").write_bytes(samples[number].png)
    (example,) = [block for block in _blocks("yaml") if block.startswith("# my.yaml")]
    (directory / "my.yaml").write_text(example)
    return directory


def _shorter(command: str) -> str:
    """Less to train and smaller networks; a later flag wins over an earlier one."""
    trains = "distgan.train" in command or command.startswith("launch/")
    if not trains or "--help" in command or "--dry-run" in command:
        return command
    return f"{command} --train.total_kimg 0.064 --metrics.port 0 --model.generator_channels 4 --model.discriminator_channels 4"


@pytest.mark.timeout(900)
def test_every_command_runs(directory: Path) -> None:
    commands = _commands()
    assert len(commands) >= 8
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in commands:
        result = subprocess.run(
            shlex.split(_shorter(command)), cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert (directory / "grid.png").is_file()
    assert len(list((directory / "fakes").glob("*.png"))) == 1000


def test_the_shards_of_the_example_hold_what_was_packed(directory: Path) -> None:
    import webdataset

    shards = [str(directory / "photos" / f"shard-{number:03d}.tar") for number in range(2)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    images, labels = digits.load_images()
    assert [int(sample["cls"]) for sample in samples] == labels[:200].tolist()
    assert all((decode(sample["png"], 32, 1)[..., 0] == image).all() for sample, image in zip(samples, images, strict=False))


def test_every_path_of_the_tree_exists() -> None:
    (tree,) = re.findall(r"^## Where things are\n\n```\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    paths = []
    for line in tree.splitlines():
        folder = "distgan/" if line.startswith("  ") else ""
        names = [name for name in line.strip().split("  ")[0].split() if name.endswith((".py", ".md", "/"))]
        paths += [README.parent / (folder + name) for name in names]
    assert len(paths) > 25
    assert [path for path in paths if not path.exists()] == []


def test_the_example_of_the_operators_runs() -> None:
    (example,) = _blocks("python")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 4, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1))
    real, fake = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8), torch.rand(5, 1, 8, 8)
    names: dict[str, Any] = {"torch": torch, "network": network, "real": real, "fake": fake}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own README
    # Without the operators: torch's parametrisation at the same vectors, stock autograd.
    weights = {name: value.detach() for name, value in names["network"].exported().named_parameters()}
    images = names["images"].detach().requires_grad_()
    (gradients,) = torch.autograd.grad(torch.func.functional_call(network, weights, images).sum(), images)
    expected = 10 * (gradients.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(names["penalty"].detach(), expected, rtol=1e-4, atol=1e-6)
    assert network[0].weight.grad is not None
