"""The command line: what contradicts itself or is out of range is a sentence, before anything is looked at."""

from pathlib import Path

import numpy as np
import pytest

from distgan.data.__main__ import main
from distgan.data.packing.options import _size
from tests.packing import class_files, pack, refusal, report, write_files, write_mnist
from tests.shards import decode


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "photos", class_files(4, side=12))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--resolution 0", "--resolution is 0; give 1 to 8192"),
        ("--resolution 8193", "8193"),
        ("--encoding jpeg --quality 0", "--quality is 0; give 1 to 100"),
        ("--quality 80", "--quality is 80, but only jpeg and webp"),
        ("--shard-bytes 0", "--shard-bytes is 0"),
        ("--shard-samples 0", "--shard-samples is 0"),
        ("--workers 0", "--workers is 0"),
        ("--test-share 0", "--test-share is 0.0"),
        ("--test-share 1", "--test-share is 1.0"),
        ("--test-share nan", "--test-share is nan"),
        ("--test-share 0.1 --split both", "leave one of them out"),
        ("--encoding keep --resolution 8", "--encoding is 'keep', which leaves every byte as it is, but --resolution"),
        ("--encoding keep --channels 1", "but --channels changes it"),
        ("--crop pad", "--crop is 'pad', but nothing is scaled without --resolution"),
        ("--filter box", "--filter is 'box'"),
        ("--resolution 8 --crop none --filter box", "--crop none scales nothing"),
        ("--encoding webp --channels 1", "WebP knows no grey"),
        ("--split both", "no test part of its own"),
        ("--split test", "no test part of its own"),
        ("--cifar-labels fine", "SRC is not CIFAR-100"),
        ("--labels nowhere.json", "No such file"),
        ("--test-share 0.01", "nothing for the part 'test'"),
        ("--source zip", "invalid choice"),
        ("--source idx", "no IDX file"),
        ("--source cifar", "none of CIFAR"),
        ("--source npz", "no .npz"),
        ("--source archive", "no archive"),
        ("--shard-bytes 5xB", "'5xB' is no size"),
        ("--encoding keep --source digits", "holds pixels and no image files"),
        ("--crop none --resolution 8", "12x12 pixels, not 8x8"),
    ],
)
def test_what_contradicts_itself_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert words in refusal(capsys, source, tmp_path / "out", *options.split())


def test_all_contradictions_are_told_at_once(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(source), str(tmp_path / "out"), "--resolution", "0", "--quality", "9", "--crop", "pad"]) == 2
    assert capsys.readouterr().err.count("distgan.data: error: ") == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nowhere", "does not exist"),
        ("x.txt", "a file of no kind that is known"),
        ("empty", "holds no image"),
        ("s3://x/y", "takes local shards only"),
    ],
)
def test_sources_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    assert kind in refusal(capsys, name if "://" in name else tmp_path / name, tmp_path / "out")


def test_the_shares_of_a_source_with_a_test_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path / "mnist", num_train=40)
    assert "take --split both instead" in refusal(capsys, tmp_path / "mnist", tmp_path / "out", "--test-share", 0.5)
    pack(tmp_path / "mnist", tmp_path / "out", "--test-share", 0.5, "--split", "train")
    assert {name: part["num_samples"] for name, part in report(tmp_path / "out")["parts"].items()} == {"train": 20, "test": 20}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("64MB", 64_000_000), ("1GB", 10**9), ("256MiB", 2**28), ("1.5 kb", 1500), ("2GiB", 2**31), ("7b", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert _size(text) == size


def test_options_reach_the_images(source: Path, tmp_path: Path) -> None:
    made = pack(source, tmp_path / "jpeg", "--resolution", 8, "--encoding", "jpeg", "--quality", 30, "--channels", 1)
    for sample in made.values():
        assert sample.extension == "jpg"
        assert decode(sample.content).shape == (8, 8)
    finer = pack(source, tmp_path / "finer", "--resolution", 8, "--encoding", "jpeg", "--quality", 100, "--channels", 1)
    assert sum(len(sample.content) for sample in finer.values()) > sum(len(sample.content) for sample in made.values())
    raw = pack(source, tmp_path / "raw", "--encoding", "raw")
    for key, content in class_files(4, side=12).items():
        assert np.array_equal(raw[key.removesuffix(".png")].pixels, decode(content))


def test_a_label_map_on_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "map.json").write_text('{"dog": 0, "bird": 1}')
    packed = pack(source, tmp_path / "out", "--labels", tmp_path / "map.json")
    assert {key: sample.label for key, sample in packed.items()} == {
        f"{name}/{n}": label for n in range(4) for name, label in (("dog", 0), ("bird", 1))
    }
    assert report(tmp_path / "out")["classes"] == ["dog", "bird"]
    assert report(tmp_path / "out")["left_out"] == [{"name": "class cat", "reason": "is not in --labels (4 images)"}]
    assert "'class cat', which is not in --labels" in refusal(
        capsys, source, tmp_path / "refused", "--labels", tmp_path / "map.json", "--on-error", "fail"
    )
