"""Shards that somebody wrote, packed again."""

import gzip
from pathlib import Path

import pytest

from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from tests.packing import pack, refusal, report, write_files
from tests.shards import (
    encode,
    flip_bit,
    member_offsets,
    noise,
    read_webdataset,
    sample_members,
    write_set,
    write_shard_writer,
    write_tar,
)


def original(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {sample["__key__"]: (sample["png"], int(sample["cls"])) for sample in read_webdataset(sorted(directory.glob("*.tar")))}


@pytest.mark.parametrize("form", ["", "{0000..0002}.tar", "*.tar"])
def test_keys_bytes_and_labels_stay(tmp_path: Path, form: str) -> None:
    write_set(tmp_path / "shards", [3, 5, 2])
    packed = pack(f"{tmp_path}/shards/{form}", tmp_path / "out", "--shard-samples", 4)
    assert {key: (sample.content, sample.label) for key, sample in packed.items()} == original(tmp_path / "shards")
    assert list(report(tmp_path / "out")["parts"][""]["shards"]) == ["000000.tar", "000001.tar", "000002.tar"]


@pytest.mark.parametrize("name", ["0000.tar", "0000.tar.gz"])
def test_a_tar_with_labels_beside_its_images_is_a_shard(tmp_path: Path, name: str) -> None:
    (path,) = write_set(tmp_path / "shards", [3])
    if name.endswith(".gz"):
        path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    packed = pack(path.with_name(name), tmp_path / "out")
    assert {key: (sample.content, sample.label) for key, sample in packed.items()} == original(tmp_path / "shards")
    assert report(tmp_path / "out")["source"]["kind"] == "webdataset"


def test_what_webdatasets_own_writer_made_is_read(tmp_path: Path) -> None:
    members = [(name.replace("000", "part/000", 1), content) for name, content in sample_members(range(7))]
    (tmp_path / "shards").mkdir()
    write_shard_writer(tmp_path / "shards", [*members, ("part/extra.json", b"{}")], 3)
    packed = pack(tmp_path / "shards", tmp_path / "out")
    assert {key: sample.label for key, sample in packed.items()} == {f"part/{number:06d}": number for number in range(7)}


def test_one_key_in_several_shards_is_several_samples(tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 1)):
        write_files(tmp_path / "shards", {}).mkdir(exist_ok=True)
        write_tar(tmp_path / "shards" / f"{name}.tar", [("0.png", encode(noise(number)))])
    packed = pack(tmp_path / "shards", tmp_path / "out")
    assert {key: sample.content for key, sample in packed.items()} == {"0": encode(noise(0)), "0_2": encode(noise(1))}


def test_a_pack_is_packed_again_with_its_classes(tmp_path: Path) -> None:
    files = {f"{name}/{number}.png": encode(noise(number)) for name in ("cat", "dog") for number in range(4)}
    first = pack(write_files(tmp_path / "photos", files), tmp_path / "first")
    again = pack(tmp_path / "first", tmp_path / "again", "--labels", write_files(tmp_path, {"map.json": '{"dog": 0}'}) / "map.json")
    assert {key: sample.content for key, sample in again.items()} == {k: s.content for k, s in first.items() if k.startswith("dog")}
    assert report(tmp_path / "again")["classes"] == ["dog"]
    pack(tmp_path / "photos", tmp_path / "divided", "--test-share", "0.5")
    pack(tmp_path / "divided" / "train", tmp_path / "third")
    assert report(tmp_path / "third")["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("content", ["{", "3", '["cat"]', "[1, 2]"])
def test_classes_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    write_set(tmp_path / "shards", [3])
    write_files(tmp_path / "shards", {"classes.json": content})
    assert "classes.json" in refusal(capsys, tmp_path / "shards", tmp_path / "out")


def test_of_a_damaged_shard_the_whole_samples_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = write_set(tmp_path / "shards", [6])
    flip_bit(path, member_offsets(path)["000002.png"][1] + 20)
    path.write_bytes(path.read_bytes()[: member_offsets(path)["000005.png"][1] + 10])
    packed = pack(tmp_path / "shards", tmp_path / "out")
    assert sorted(packed) == ["000000", "000001", "000003", "000004"]
    told = "".join(entry["reason"] for entry in report(tmp_path / "out")["left_out"])
    assert "000002.png" in told
    assert "cut short" in told
    assert "0000.tar" in refusal(capsys, tmp_path / "shards", tmp_path / "refused", "--on-error", "fail")
    path.write_bytes(b"hello")
    assert "0000.tar" in refusal(capsys, tmp_path / "shards", tmp_path / "refused")


def test_raw_shards_are_packed_again(tmp_path: Path) -> None:
    """As they are, and as something else; the index knows where their pixels are."""
    files = {f"{name}/{number}.png": encode(noise(number, 9, 7, 3)) for name in ("cat", "dog") for number in range(3)}
    raw = pack(write_files(tmp_path / "photos", files), tmp_path / "raw", "--encoding", "raw")
    assert {sample.extension for sample in raw.values()} == {"npy"}
    for shard in open_manifest(resolve(str(tmp_path / "raw"))).shards:
        content = shard.path.read_bytes()
        rows = [content[int(row["offset"]) :][: int(row["bytes"])] for row in shard.load_index()]
        assert rows == [sample.pixels.tobytes() for sample in raw.values()]
    assert pack(tmp_path / "raw", tmp_path / "again") == raw
    assert {key: sample.content for key, sample in pack(tmp_path / "raw", tmp_path / "png", "--encoding", "png").items()} == {
        name.removesuffix(".png"): content for name, content in files.items()
    }


def test_a_pattern_that_matches_nothing_speaks_of_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capsys, f"{tmp_path}/x-{{0..3}}.tar", tmp_path / "out")
    assert "SRC is" in sentence
    assert "data.url" not in sentence


def test_tars_beside_images_are_ambiguous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "shards", [3])
    write_files(tmp_path / "shards", {"a.png": encode(noise(0))})
    assert "--source webdataset or --source folder" in refusal(capsys, tmp_path / "shards", tmp_path / "out")
    assert len(pack(tmp_path / "shards", tmp_path / "a", "--source", "webdataset")) == 3
    assert list(pack(tmp_path / "shards", tmp_path / "b", "--source", "folder")) == ["a"]
