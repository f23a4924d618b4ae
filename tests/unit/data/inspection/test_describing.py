"""stats: the same figures in words and in stats.json; files only where they are asked for."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data.inspection import text
from distgan.data.inspection.classes import Class
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from tests.shards import encode, flip_bit, member_offsets, noise, sample_members, write_set, write_tar
from tests.unit.data.inspection.conftest import Outcome

Run = Callable[..., Outcome]


def test_the_whole_text(tmp_path: Path, run: Run) -> None:
    """Of black images with one white pixel."""
    pixels = np.zeros((4, 5), np.uint8)
    pixels[0, 0] = 255
    image = b"P5 5 4 255\n" + pixels.tobytes()
    write_tar(tmp_path / "a.tar", [(f"{number}.pgm", image) for number in range(4)])
    write_tar(tmp_path / "b.tar", [member for key in "xyz" for member in ((f"{key}.pgm", image), (f"{key}.cls", b"2"))])
    (tmp_path / "classes.json").write_text('["a", "b", "c\\u001b[31m"]')
    hash_ = open_manifest(resolve(str(tmp_path))).hash
    outcome = run("stats", tmp_path)
    assert outcome.code == 0
    expected = f"""\
{tmp_path}
  samples   7 in 2 shards of 20.5kB
  labels    0 to 2, 4 without a label
  sizes     sides of 4 to 5 pixels, 7 images not square
  channels  grey
  formats   PPM
  decoders  PILLOW
  damaged   nothing
  hash      {hash_}
  index     {tmp_path}

Samples of each class
  0 a          0
  1 b          0
  2 c\\x1b[31m  3  ##############################
  no label     4  ########################################

Bytes of an image as it is stored
  least    5 %   25 %  median   75 %   95 %   most   mean
  31.0B  31.0B  31.0B   31.0B  31.0B  31.0B  31.0B  31.0B

Pixels in [0, 1], of 7 images spread over the set
          mean     std
  grey  0.0500  0.2179"""
    assert outcome.lines == expected.splitlines()


def test_without_out_nothing_is_written(directory: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run("index", directory)
    before = sorted(tmp_path.rglob("*"))
    assert run("stats", directory).code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_files(directory: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    outcome = run("stats", directory, "--out", out)
    assert outcome.lines[-2:] == [str(out / "stats.json"), str(out / "contact-sheet.png")]
    assert sorted(os.listdir(out)) == ["contact-sheet.png", "stats.json"]
    found = json.loads((out / "stats.json").read_text())
    opened = open_manifest(resolve(str(directory)))
    assert found["hash"] == opened.hash
    assert (found["num_samples"], found["num_shards"], found["num_unlabelled"]) == (10, 3, 0)
    assert found["bytes"] == sum(path.stat().st_size for path in directory.glob("*.tar"))
    assert found["classes"] == [{"label": label, "name": None, "num_samples": 1} for label in range(10)]
    assert found["image_sizes"]["commonest"] == [{"width": 8, "height": 8, "num_samples": 10}]
    assert found["image_sizes"]["quantiles"]["width"] == dict.fromkeys(["0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"], 8)
    sizes = sorted(len(encode(noise(number))) for number in range(10))
    assert found["bytes_per_image"]["mean"] == np.mean(sizes)
    assert (found["bytes_per_image"]["quantiles"]["0"], found["bytes_per_image"]["quantiles"]["1"]) == (sizes[0], sizes[-1])
    pixels = np.stack([noise(number) for number in range(10)]) / 255
    assert found["pixels"]["mean"] == pytest.approx([pixels.mean()], rel=1e-12)
    assert found["pixels"]["std"] == pytest.approx([pixels.std()], rel=1e-12)
    assert (found["channels"], found["decoders"], found["pixels"]["formats"]) == ({"1": 10}, {"SPNG": 10}, {"PNG": 10})
    assert found["contact_sheet_rows"] == list(range(10))
    assert found["damages"] == []
    assert Image.open(out / "contact-sheet.png").size == (10 * 66 + 2, 10 * 66 + 2)


def test_damages_are_counted_and_told(directory: Path, run: Run, tmp_path: Path) -> None:
    """What indexing left out, what cannot be read at all, and what was damaged since."""
    write_tar(directory / "0003.tar", [*sample_members([10]), ("bad.png", b"no image")])
    (directory / "0004.tar").write_bytes(b"no tar" * 1000)
    run("index", directory)
    time = (directory / "0001.tar").stat().st_mtime_ns
    flip_bit(directory / "0001.tar", member_offsets(directory / "0001.tar")["000004.png"][1] + 40)
    os.utime(directory / "0001.tar", ns=(time, time))
    outcome = run("stats", directory, "--out", tmp_path / "out")
    assert "  damaged   3 places; the index command lists them" in outcome.lines
    assert "  formats   PNG (of 10 that were decoded)" in outcome.lines
    damages = json.loads((tmp_path / "out" / "stats.json").read_text())["damages"]
    assert [(damage["shard"], damage["key"]) for damage in damages] == [
        (f"{directory}/0003.tar", "bad"),
        (f"{directory}/0004.tar", None),
        (f"{directory}/0001.tar", "000004"),
    ]


def test_a_set_of_which_nothing_can_be_decoded_any_more(directory: Path, run: Run, tmp_path: Path) -> None:
    run("index", directory)
    for path in directory.glob("*.tar"):
        time = path.stat().st_mtime_ns
        for name, (_, begin) in member_offsets(path).items():
            flip_bit(path, begin) if name.endswith(".png") else None
        os.utime(path, ns=(time, time))
    outcome = run("stats", directory, "--out", tmp_path / "out")
    assert outcome.code == 0
    assert not any("Pixels" in line for line in outcome.lines)
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["pixels"]["mean"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{directory}", "--max-samples", "0"], "--max-samples is 0"),
        (["{directory}", "--out", "/dev/null/x"], "--out is '/dev/null/x', which cannot be written"),
        (["{directory}/nothing"], "matches nothing"),
        (["{directory}/bad.tar"], "bad.tar is not a readable tar"),
    ],
)
def test_bad_usage(directory: Path, run: Run, arguments: list[str], words: str) -> None:
    (directory / "bad.tar").write_bytes(b"no tar" * 1000)
    outcome = run("stats", *(argument.format(directory=directory) for argument in arguments))
    assert outcome[:2] == (2, [])
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_wrong_url_makes_no_directory(tmp_path: Path, run: Run) -> None:
    assert run("stats", tmp_path / "nothing", "--out", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


def test_of_many_classes_the_largest_and_the_smallest_are_shown() -> None:
    classes = [Class(label, f"name {label}", (label * 7) % 1000 + 1) for label in range(1000)]
    lines = text.of_classes(classes, num_unlabelled=0)
    assert len(lines) == text.MAX_BARS + 1
    numbers = [int(line.split()[-2].replace(",", "")) for line in lines if not line.startswith("...")]
    assert numbers == [*range(1000, 980, -1), *range(20, 0, -1)]
    assert lines[20] == "... 960 classes in between ..."


def test_many_sizes_are_summed_up(tmp_path: Path, run: Run) -> None:
    members = [(f"{number:03d}.pgm", b"P5 %d 3 255\n" % (number + 1) + bytes(3 * (number + 1))) for number in range(101)]
    write_tar(tmp_path / "a.tar", [*members, *[(f"x{number}.pgm", members[4][1]) for number in range(9)]])
    lines = run("stats", tmp_path).lines
    begin = lines.index("Image sizes (width x height)")
    assert lines[begin + 1].split()[:2] == ["5x3", "10"]
    assert lines[begin + 11].split()[:3] == ["91", "others", "91"]
    widths = sorted([*range(1, 102), *[5] * 9])
    expected = [widths[0], *(widths[int(np.ceil(share * 110)) - 1] for share in (0.05, 0.25, 0.5, 0.75, 0.95)), widths[-1]]
    assert lines[begin + 14].split() == ["width", *map(str, expected)]
    assert lines[begin + 15].split() == ["height", *["3"] * 7]


def test_a_set_in_colour_has_three_channels(tmp_path: Path, run: Run) -> None:
    colour = np.zeros((8, 8, 3), np.uint8) + np.array([255, 0, 51], np.uint8)
    write_tar(tmp_path / "a.tar", [("a.png", encode(colour)), ("b.png", encode(np.full((8, 8), 255, np.uint8)))])
    lines = run("stats", tmp_path).lines
    assert "  channels  colour 1, grey 1" in lines
    expected = [("red", "1.0000", "0.0000"), ("green", "0.5000", "0.5000"), ("blue", "0.6000", "0.4000")]
    assert [tuple(line.split()) for line in lines[-3:]] == expected


def test_one_shard_is_enough(tmp_path: Path, run: Run) -> None:
    (path,) = write_set(tmp_path, [3])
    assert f"  samples   3 in 1 shard of {path.stat().st_size / 1000:.1f}kB" in run("stats", path).lines
