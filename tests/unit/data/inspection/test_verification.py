"""verify: names what has changed since the shards were indexed, whatever the files' times say, and touches nothing."""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data.decoding import Decoder
from distgan.data.inspection import verification
from distgan.data.inspection.findings import Finding
from distgan.data.inspection.verification import BESIDE_IMAGES, BYTES_DIFFER, UNKNOWN_PLACE, check_shard
from distgan.data.shards import local_shards
from distgan.data.shards.grouping import SAMPLE
from distgan.data.shards.index import Shard
from distgan.data.shards.local_shards import recorded
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from tests.shards import encode, flip_bit, member_offsets, noise, sample_members, write_tar
from tests.unit.data.inspection.conftest import Outcome

Run = Callable[..., Outcome]


def indexed(directory: Path) -> list[Shard]:
    return list(open_manifest(resolve(str(directory))).shards)


def flip(path: Path, offset: int, new_time: int | None = None) -> None:
    """Damage a byte and put the old time back, or set a newer one."""
    before = path.stat()
    flip_bit(path, offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns if new_time is None else new_time))


def payload_of(shard: Path, key: str) -> int:
    """Where in the shard a byte in the middle of the sample's image stands."""
    return member_offsets(shard)[f"{key}.png"][1] + 40


def state(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Inode, time and content of everything that is there."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in directory.iterdir()
    }


def test_whole_shards(directory: Path, run: Run) -> None:
    indexed(directory)
    assert run("verify", directory) == (0, [], "10 samples in 3 shards (41.0kB): all is as it was when it was indexed.\n")


@pytest.mark.parametrize("newer_by_seconds", [None, 3600], ids=["the time is the same", "the time is newer"])
def test_a_flipped_bit_is_named_by_shard_and_key_and_nothing_is_written(directory: Path, run: Run, newer_by_seconds: int | None) -> None:
    indexed(directory)
    path = directory / "0001.tar"
    new_time = None if newer_by_seconds is None else path.stat().st_mtime_ns + newer_by_seconds * 10**9
    flip(path, payload_of(path, "000004"), new_time)
    before = state(directory)
    for _ in range(2):
        outcome = run("verify", directory)
        assert outcome[:2] == (1, [f"{path}\t000004\tbytes differ"])
        assert "1 damage in 1 file, 1 sample among them" in outcome.stderr
    assert state(directory) == before


def test_every_byte_of_a_shard_is_told_for_what_it_is(tmp_path: Path) -> None:
    """The truth is what tarfile says of the places of the images."""
    members = [*sample_members(range(3)), ("notes.txt", b"hello"), ("000003.png", encode(noise(3)))]
    path = write_tar(tmp_path / "a.tar", members)
    (shard,) = indexed(tmp_path)
    whole = path.read_bytes()
    offsets = member_offsets(path)
    images = {key: (offsets[f"{key}.png"][1], len(dict(members)[f"{key}.png"])) for key in ("000000", "000001", "000002", "000003")}
    seen = set()
    for offset in [*range(0, len(whole), 37), *(start + add for start, size in images.values() for add in (-1, 0, size - 1, size))]:
        flip_bit(path, offset)
        hit = [key for key, (start, size) in images.items() if start <= offset < start + size]
        expected = Finding(path, hit[0], BYTES_DIFFER) if hit else Finding(path, None, BESIDE_IMAGES)
        assert check_shard(shard, with_decoding=False) == [expected], offset
        seen.add(expected.key)
        path.write_bytes(whole)
    assert seen == {*images, None}
    assert check_shard(shard, with_decoding=True) == []


def test_every_damaged_sample_of_every_shard_is_listed_in_order(directory: Path, run: Run) -> None:
    """In processes of their own, too."""
    indexed(directory)
    keys = {"0000.tar": ["000000", "000002"], "0002.tar": ["000008", "000009"]}
    for name, of_shard in keys.items():
        for key in of_shard:
            flip(directory / name, payload_of(directory / name, key))
    expected = [f"{directory / name}\t{key}\tbytes differ" for name, of_shard in keys.items() for key in of_shard]
    for jobs in ([], ["--jobs", 1], ["--jobs", 3]):
        assert run("verify", directory, *jobs)[:2] == (1, expected)


def test_a_damaged_image_and_a_damaged_header_are_not_confused(directory: Path, run: Run) -> None:
    indexed(directory)
    flip(directory / "0000.tar", payload_of(directory / "0000.tar", "000001"))
    flip(directory / "0001.tar", member_offsets(directory / "0001.tar")["000004.png"][0] + 110)  # the owner's number
    flip(directory / "0002.tar", member_offsets(directory / "0002.tar")["000009.cls"][1])
    assert run("verify", directory).lines == [
        f"{directory}/0000.tar\t000001\tbytes differ",
        f"{directory}/0001.tar\t\t{BESIDE_IMAGES}",
        f"{directory}/0002.tar\t\t{BESIDE_IMAGES}",
    ]


def test_an_exchanged_shard_of_the_same_size_is_told_sample_by_sample(tmp_path: Path, run: Run) -> None:
    def members(first: int) -> list[tuple[str, bytes]]:
        return [(f"{number}.bmp", encode(noise(first + number), "bmp")) for number in range(3)]

    path = write_tar(tmp_path / "a.tar", members(0))
    indexed(tmp_path)
    write_tar(path, [members(0)[0], *members(100)[1:]])
    assert run("verify", tmp_path).lines == [f"{path}\t{key}\tbytes differ" for key in ("1", "2")]


def test_files_that_are_gone_or_of_another_size(directory: Path, run: Run) -> None:
    shards = indexed(directory)
    sizes = [shard.record.bytes for shard in shards]
    (directory / "0000.tar").unlink()
    os.truncate(directory / "0001.tar", 5000)
    (directory / "0002.tar.index").unlink()
    expected = [
        f"{directory}/0001.tar\t\thas 5000 bytes, but had {sizes[1]} when it was indexed",
        f"{directory}/0002.tar.index\t\tis missing",
        f"{directory}/0000.tar\t\tis missing",
    ]
    assert run("verify", directory)[:2] == (1, expected)
    assert sorted(run("verify", f"{directory}/*.tar").lines) == sorted(expected)
    assert sorted(run("verify", f"{directory}/{{0000..0002}}.tar").lines) == sorted(expected)
    assert run("verify", f"{directory}/000{{1..2}}.tar").lines == expected[:2], "0000.tar is not asked for"


@pytest.mark.parametrize("offset", [3, 100, -3], ids=["header", "rows", "keys"])
def test_a_damaged_index_file(directory: Path, run: Run, offset: int) -> None:
    """The shard itself is still held against its SHA-256."""
    indexed(directory)
    flip(directory / "0001.tar.index", offset)
    assert run("verify", directory)[:2] == (1, [f"{directory}/0001.tar.index\t\tCRC-32 differs"])
    flip(directory / "0001.tar", payload_of(directory / "0001.tar", "000004"))
    assert run("verify", directory).lines[1:] == [f"{directory}/0001.tar\t\t{UNKNOWN_PLACE}"]


def test_a_longer_index_file(directory: Path, run: Run) -> None:
    (_, shard, _) = indexed(directory)
    with open(shard.index_file, "ab") as file:
        file.write(b"x")
    num_bytes = shard.record.index_bytes
    assert run("verify", directory).lines == [f"{shard.index_file}\t\thas {num_bytes + 1} bytes, but had {num_bytes} when it was indexed"]


@pytest.mark.parametrize(("field", "change"), [("sha256", "x"), ("num_samples", 1), ("num_samples", -1), ("bytes", 512)])
def test_by_a_damaged_list_of_shards_no_shard_is_accused(directory: Path, run: Run, field: str, change: str | int) -> None:
    indexed(directory)
    path = directory / "shards.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1][field] += change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = run("verify", directory)
    assert outcome.code == 1
    (line,) = outcome.lines
    assert line.startswith(f"{path}\t\tdoes not agree with the hash in manifest.json: no shard of it can be verified")


def test_shards_that_were_never_indexed(directory: Path, run: Run) -> None:
    before = state(directory)
    outcome = run("verify", directory)
    assert outcome[:2] == (2, [])
    assert "0000.tar and 2 more of the shards were never indexed, so there is nothing to compare with" in outcome.stderr
    assert f"run python -m distgan.data index {directory} first" in outcome.stderr
    assert state(directory) == before


def test_the_shards_beside_one_that_was_never_indexed_are_verified(directory: Path, run: Run) -> None:
    indexed(directory)
    write_tar(directory / "0003.tar", sample_members([10]))
    outcome = run("verify", directory)
    assert outcome[:2] == (2, [])
    assert "10 samples in 3 shards (41.0kB): all is as it was" in outcome.stderr
    assert f"{directory}/0003.tar was never indexed" in outcome.stderr
    flip(directory / "0001.tar", payload_of(directory / "0001.tar", "000004"))
    outcome = run("verify", directory)
    assert outcome[:2] == (1, [f"{directory}/0001.tar\t000004\tbytes differ"])
    assert f"{directory}/0003.tar was never indexed" in outcome.stderr


def test_an_index_in_the_users_cache_is_found(directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(local_shards.os, "access", lambda path, mode: not (Path(path) == directory and mode == os.W_OK))
        assert all(shard.index_directory != directory for shard in indexed(directory))
    before = state(directory)
    assert run("verify", directory).code == 0
    flip(directory / "0001.tar", payload_of(directory / "0001.tar", "000004"), new_time=2 * 10**18)
    assert run("verify", directory)[:2] == (1, [f"{directory}/0001.tar\t000004\tbytes differ"])
    assert state(directory).keys() == before.keys()


@pytest.mark.parametrize("num_samples", [9, 20], ids=["of the same size", "of another size"])
def test_of_two_records_the_one_of_the_present_shard_counts(directory: Path, monkeypatch: pytest.MonkeyPatch, num_samples: int) -> None:
    """Somebody indexed beside the shards; one was replaced, and indexed by a user who cannot write there."""
    old = indexed(directory)[1]
    os.utime(old.index_file, ns=(0, 10**18))
    write_tar(directory / "0001.tar", sample_members(range(20, 20 + num_samples)))
    assert ((directory / "0001.tar").stat().st_size == old.record.bytes) == (num_samples == 9)
    monkeypatch.setattr(local_shards.os, "access", lambda path, mode: not (Path(path) == directory and mode == os.W_OK))
    opened = indexed(directory)
    assert opened[1].record.num_samples == num_samples
    assert recorded(directory)[1] == opened[1]


def test_samples_that_were_damaged_when_they_were_indexed_are_only_counted(directory: Path, run: Run) -> None:
    write_tar(directory / "0001.tar", [*sample_members([3]), ("bad.png", b"no image")])
    assert run("index", directory).code == 1
    outcome = run("verify", directory)
    assert outcome[:2] == (0, [])
    assert "1 more sample was damaged before that" in outcome.stderr
    os.truncate(directory / "0002.tar", 1000)
    assert run("index", directory).code == 1
    assert "At least 3 more samples were damaged before that" in run("verify", directory).stderr


def test_a_key_cannot_break_the_line_or_steer_the_terminal(tmp_path: Path, run: Run) -> None:
    key = "a\tb\nc\x1b[31m\\d\udcffü文 e"
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        information = tarfile.TarInfo(f"{key}.png")
        information.size = len(encode(noise(0)))
        tar.addfile(information, io.BytesIO(encode(noise(0))))
    indexed(tmp_path)
    flip(path, member_offsets(path)[f"{key}.png"][1] + 40)
    assert run("verify", tmp_path).lines == [rf"{path}" + "\t" + r"a\tb\nc\x1b[31m\\d\udcffü文 e" + "\tbytes differ"]


def kinds() -> list[tuple[str, bytes]]:
    """Images of every way to be decoded, none of them square."""
    colour = Image.fromarray(noise(1, 9, 13, 3))
    array = io.BytesIO()
    np.save(array, noise(2, 9, 13, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    with_exif = io.BytesIO()
    colour.save(with_exif, "jpeg", exif=turned)
    sixteen_bits = np.linspace(0, 65535, 9 * 13).astype(np.uint16).reshape(9, 13)
    return [
        *((f"png-{mode}.png", encode(colour.convert(mode))) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *((f"jpg-{mode}.jpg", encode(colour.convert(mode), "jpg")) for mode in ("L", "RGB", "CMYK")),
        ("sixteen.png", encode(sixteen_bits)),
        ("turned.jpg", with_exif.getvalue()),
        ("raw.npy", array.getvalue()),
        *((f"{extension}.{extension}", encode(colour, extension)) for extension in ("webp", "bmp", "ppm")),
    ]


def test_whole_images_of_every_kind_can_be_decoded(tmp_path: Path, run: Run) -> None:
    write_tar(tmp_path / "a.tar", kinds())
    (shard,) = indexed(tmp_path)
    assert set(shard.load_index()["decoder"].tolist()) == {decoder.value for decoder in Decoder}
    assert run("verify", tmp_path, "--decode")[:2] == (0, [])


def with_index(shard: Shard, place: int, **values: int) -> Shard:
    """The shard, with an index that says something else of one sample, and a record that agrees."""
    content = bytearray(shard.index_file.read_bytes())
    rows = np.array(shard.load_index())
    begin = bytes(content).index(rows.tobytes())
    for name, value in values.items():
        rows[name][place] = value
    content[begin : begin + len(rows) * SAMPLE.itemsize] = rows.tobytes()
    shard.index_file.write_bytes(content)
    return replace(shard, record=replace(shard.record, index_crc32=zlib.crc32(bytes(content))))


@pytest.mark.parametrize(
    "values",
    [{"decoder": Decoder.JPEG_TURBO}, {"decoder": Decoder.RAW}, {"width": 9}, {"decoder": Decoder.PILLOW, "height": 9}],
    ids=str,
)
def test_an_image_that_cannot_be_decoded_any_more(directory: Path, values: dict[str, int]) -> None:
    """Its bytes are whole, but the libraries are others, say: only decoding tells."""
    shard = with_index(indexed(directory)[1], 2, **values)
    assert check_shard(shard, with_decoding=False) == []
    (finding,) = check_shard(shard, with_decoding=True)
    assert (finding.path, finding.key) == (shard.path, "000005")
    assert finding.reason.startswith("cannot be decoded (")


def test_a_shard_that_the_disk_does_not_give(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = indexed(directory)[1]

    def failing(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verification, "open", failing, raising=False)
    assert check_shard(shard, with_decoding=False) == [Finding(shard.path, None, "cannot be read (Input/output error)")]


def test_a_manifest_that_cannot_be_read_is_refused(directory: Path, run: Run) -> None:
    indexed(directory)
    (directory / "manifest.json").write_text("{")
    outcome = run("verify", directory)
    assert outcome[:2] == (2, [])
    assert f"The manifest in {directory} cannot be read" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{directory}", "--jobs", "0"], "--jobs is 0; give the number of processes"),
        (["{directory}/x.tar"], "which matches nothing: {directory}/x.tar does not exist"),
        (["{directory}/x-{{0..3}}.tar"], "x-0.tar does not exist"),
        (["s3://bucket/a.tar"], "takes local shards only"),
    ],
)
def test_bad_usage(directory: Path, run: Run, arguments: list[str], words: str) -> None:
    indexed(directory)
    outcome = run("verify", *(argument.format(directory=directory) for argument in arguments))
    assert outcome[:2] == (2, [])
    assert words.format(directory=directory) in outcome.stderr


def test_the_manifests_own_checksums_are_those_of_the_files(directory: Path) -> None:
    shards = indexed(directory)
    assert recorded(directory) == shards
    for shard in shards:
        assert shard.record.sha256 == hashlib.sha256(shard.path.read_bytes()).hexdigest()
        assert shard.record.index_crc32 == zlib.crc32(shard.index_file.read_bytes())
