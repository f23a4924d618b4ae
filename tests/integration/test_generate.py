"""Images out of a run: reproducible, in every format, and a sentence for what cannot be."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from distgan import generate, train

SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of a few iterations."""
    directory = tmp_path_factory.mktemp("run") / "conditional"
    arguments = ["--run.dir", str(directory), "--train.total_kimg", "0.3", "--metrics.port", "0", "--model.conditional"]
    assert train.main([*SMALL, *arguments]) == 0
    return directory


def test_the_grid_of_the_readme(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "grid.png"
    assert generate.main(["--run", str(run), "--num-images", "64", "--seed", "0", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert Image.open(out).size == (10 * 66 + 2, 7 * 66 + 2)


def test_the_same_seed_gives_the_same_images_and_another_seed_others(run: Path, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert generate.main(["--run", str(run), "--seed", seed, "--out", str(tmp_path / f"{name}.png")]) == 0
        contents.append((tmp_path / f"{name}.png").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_folder_and_shards_hold_the_same_images_by_class(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SAMPLES_PER_SHARD", 20)
    monkeypatch.setattr(generate, "CHUNK_SIZE", 7)
    for form in ("folder", "shards"):
        arguments = ["--run", str(run), "--num-images", "45", "--format", form, "--out", str(tmp_path / form)]
        assert generate.main(arguments) == 0
    files = sorted((tmp_path / "folder").glob("*/*.png"), key=lambda path: path.stem)
    assert [int(path.parent.name) for path in files] == [number % 10 for number in range(45)]
    shards = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    assert len(shards) == 3
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["png"] for sample in samples] == [path.read_bytes() for path in files]
    assert [int(sample["cls"]) for sample in samples] == [number % 10 for number in range(45)]


def test_shards_that_were_generated_can_be_trained_on(run: Path, tmp_path: Path) -> None:
    assert generate.main(["--run", str(run), "--num-images", "70", "--format", "shards", "--out", str(tmp_path / "fakes")]) == 0
    arguments = ["--data.url", str(tmp_path / "fakes"), "--run.dir", str(tmp_path / "again"), "--train.total_kimg", "0.1"]
    assert train.main([*SMALL, *arguments, "--metrics.port", "0", "--model.conditional"]) == 0


def test_one_class_only(run: Path, tmp_path: Path) -> None:
    arguments = ["--run", str(run), "--num-images", "3", "--label", "7", "--format", "folder", "--out", str(tmp_path / "sevens")]
    assert generate.main(arguments) == 0
    assert len(list((tmp_path / "sevens" / "7").glob("*.png"))) == 3


def test_the_averaged_weights_are_used(run: Path, tmp_path: Path) -> None:
    """The last EMA grid of training and `generate` agree on how images are made from the averaged network."""
    import torch

    from distgan import checkpoint
    from distgan.build import build_networks
    from distgan.cli import read_yaml, validate
    from distgan.models.base import ImageShape

    loaded, num_classes = generate.load_generator(run, torch.device("cpu"))
    assert num_classes == 10
    directory = run / "checkpoints"
    networks = {}
    for group in ("ema", "generator"):
        networks[group], _ = build_networks(validate(read_yaml(run / "config.yaml")), ImageShape(1, 32), 10)
        networks[group].load_state_dict(checkpoint.load_tensors(directory, checkpoint.steps(directory)[-1], group))
    latents, labels = torch.randn(2, loaded.latent_size), torch.tensor([0, 1])
    assert torch.equal(loaded(latents, labels), networks["ema"].eval()(latents, labels))
    assert not torch.equal(loaded(latents, labels), networks["generator"].eval()(latents, labels))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--num-images", "0"], "--num-images is 0"),
        (["--label", "10"], "--label is 10, but the run has classes 0 to 9"),
        (["--run", "/nowhere"], "--run is '/nowhere', which is not a run"),
        (["--out", "/dev/null/x.png"], "--out is '/dev/null/x.png', which cannot be written"),
        (["--format", "folder", "--out", "."], "--out is '.', which exists already"),
    ],
)
def test_bad_input(arguments: list[str], expected: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--run", str(run), "--out", str(tmp_path / "x.png"), *arguments]) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert "Traceback" not in stderr


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert generate.main(["--run", str(tmp_path / "young"), "--out", str(tmp_path / "x.png")]) == 2
    assert "has no intact checkpoint yet" in capsys.readouterr().err


def test_images_are_not_all_alike(run: Path, tmp_path: Path) -> None:
    assert generate.main(["--run", str(run), "--num-images", "4", "--format", "folder", "--out", str(tmp_path / "few")]) == 0
    pixels = [np.asarray(Image.open(path)) for path in (tmp_path / "few").glob("*/*.png")]
    assert len({image.tobytes() for image in pixels}) == 4
