"""Packing: whole shards or none, the same bytes every time, readable by webdataset."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distgan.data.writer import Sample, write_shards
from distgan.png import encode_png
from tests.shards import decode, noise, read_webdataset

SAMPLES = [Sample(f"{number:04d}", encode_png(noise(number)), number % 3 if number != 4 else None) for number in range(7)]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    pixels = noise(0, 9, 5, channels)
    assert np.array_equal(decode(encode_png(pixels)), pixels)


def test_shards_hold_the_samples_in_order(tmp_path: Path) -> None:
    write_shards(SAMPLES, tmp_path / "set", samples_per_shard=3)
    shards = sorted((tmp_path / "set").iterdir())
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [len(read_webdataset(shard)) for shard in shards] == [3, 3, 1]
    found = read_webdataset(shards)
    assert [(sample["__key__"], sample["png"]) for sample in found] == [(sample.key, sample.png) for sample in SAMPLES]
    assert [int(sample["cls"]) if "cls" in sample else None for sample in found] == [sample.label for sample in SAMPLES]


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shards(SAMPLES, tmp_path / name, samples_per_shard=3)
    for shard in (tmp_path / "one").iterdir():
        assert shard.read_bytes() == (tmp_path / "two" / shard.name).read_bytes()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield from SAMPLES
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_shards(samples(), tmp_path / "set", samples_per_shard=3)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        write_shards(SAMPLES, tmp_path / "set", samples_per_shard=3)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine.txt"]
