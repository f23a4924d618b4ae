"""Uncompressing into one file: whole or not at all, and no bomb."""

import gzip
from pathlib import Path

import pytest

from distgan.data.packing import scratch
from distgan.data.packing.scratch import gunzipped
from distgan.errors import InputError
from tests.shards import flip_bit, noise


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(noise(0, 100, 100).tobytes()) + gzip.compress(b"second part"))
    return path


def test_the_content_is_whole(packed: Path, tmp_path: Path) -> None:
    path = gunzipped(packed, tmp_path / "scratch")
    assert path.read_bytes() == noise(0, 100, 100).tobytes() + b"second part"
    assert list(path.parent.iterdir()) == [path]


def test_what_is_there_whole_is_not_made_again(packed: Path, tmp_path: Path) -> None:
    gunzipped(packed, tmp_path / "scratch").write_bytes(b"mark")
    assert gunzipped(packed, tmp_path / "scratch").read_bytes() == b"mark"


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_damage_is_refused_and_leaves_nothing_that_looks_whole(packed: Path, tmp_path: Path, damage: str) -> None:
    if damage == "flipped":
        flip_bit(packed, 5000)
    else:
        packed.write_bytes(packed.read_bytes()[:5000] if damage == "cut" else b"hello")
    with pytest.raises(InputError, match="damaged or cut short"):
        gunzipped(packed, tmp_path / "scratch")
    assert not (tmp_path / "scratch" / "x.gz.content").exists()


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_ALWAYS_BYTES", 10 * 2**20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(50 * 2**20)))
    with pytest.raises(InputError, match=r"bomb.gz, which has \d+ bytes and grows to more than 10485760"):
        gunzipped(tmp_path / "bomb.gz", tmp_path / "scratch")
    assert sum(path.stat().st_size for path in (tmp_path / "scratch").iterdir()) <= 10 * 2**20
    (tmp_path / "small.gz").write_bytes(gzip.compress(bytes(5 * 2**20)))
    assert gunzipped(tmp_path / "small.gz", tmp_path / "scratch").stat().st_size == 5 * 2**20
