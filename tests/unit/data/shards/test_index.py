"""A shard's index: its rows point at exactly the bytes of the images, and what is not whole is refused by name."""

import gc
import io
import tarfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset.writer import TarWriter

from distgan.data.shards.grouping import NO_LABEL, SAMPLE
from distgan.data.shards.index import index_path, index_shard, load_index, sha256_of
from tests.shards import (
    Member,
    encode,
    member_offsets,
    noise,
    read_webdataset,
    sample_members,
    write_shard_writer,
    write_tar,
    write_webdataset,
)
from tests.unit.data.shards.indexing import index, payloads

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def writers() -> dict[str, Callable[[Path, Iterable[Member]], Path]]:
    """Each a function (path, members)."""
    by_format = {name: lambda path, members, format=format: write_tar(path, members, format) for name, format in FORMATS.items()}
    return {**by_format, "webdataset": write_webdataset}


LONG_FOLDER = "/".join(["folder"] * 18)  # 125 characters, which USTAR splits
VERY_LONG = f"{LONG_FOLDER}/{'n' * 200}"  # 326 characters
KEYS = ["000000", "folder/000000", "v1.0/000001", f"{LONG_FOLDER}/000002", "ünïcödé-文", "./000003", "spaces in it"]


@pytest.mark.parametrize("writer", ["gnu", "pax", "ustar", "webdataset"])
def test_rows_point_at_the_images(shard: Path, writer: str) -> None:
    """As tarfile and webdataset read them, whatever wrote the tar and however long the names are."""
    keys = KEYS if writer == "ustar" else [*KEYS, VERY_LONG, "k" * 150]
    members = []
    for number, key in enumerate(keys):
        image = noise(number, height=6 + number, width=9, channels=3 if number % 2 else 1)
        members += [(f"{key}.cls", str(number).encode()), (f"{key}.json", b"{}" * 300 * number), (f"{key}.png", encode(image))]
    writers()[writer](shard, members)
    record, rows = index(shard)

    expected = [content for name, content in members if name.endswith(".png")]
    assert payloads(shard, rows) == expected
    with tarfile.open(shard) as tar:
        assert rows["offset"].tolist() == [member.offset_data for member in tar if member.name.endswith(".png")]
    samples = read_webdataset(shard)
    assert [sample["png"] for sample in samples] == expected
    assert [int(sample["cls"]) for sample in samples] == rows["label"].tolist() == list(range(len(keys)))
    assert rows["height"].tolist() == list(range(6, 6 + len(keys)))
    assert rows["width"].tolist() == [9] * len(keys)
    assert rows["channels"].tolist() == [3 if number % 2 else 1 for number in range(len(keys))]
    expected_record = {
        "name": "shard.tar",
        "bytes": shard.stat().st_size,
        "sha256": sha256_of(shard),
        "num_samples": len(keys),
        "num_labelled": len(keys),
        "num_classes": len(keys),
        "channels": 3,
        "min_side": 6,
        "max_side": max(9, 5 + len(keys)),
        "num_not_square": len(keys) - 1,
    }
    assert asdict(record) | expected_record == asdict(record)


def test_shards_of_webdatasets_shard_writer(tmp_path: Path) -> None:
    shards = write_shard_writer(tmp_path, sample_members(range(10)), samples_per_shard=4)
    indexed = [index(shard) for shard in shards]
    assert [record.num_samples for record, _ in indexed] == [4, 4, 2]
    found = [payload for shard, (_, rows) in zip(shards, indexed, strict=True) for payload in payloads(shard, rows)]
    assert found == [sample["png"] for sample in read_webdataset(shards)]


def test_an_index_is_small_and_needs_no_pickle(shard: Path) -> None:
    write_tar(shard, sample_members(range(50)))
    record, rows = index(shard)
    assert rows.dtype == SAMPLE
    assert isinstance(rows, np.memmap)
    assert index_path(shard, shard.parent).stat().st_size < 32 * 50 + 512
    assert np.array_equal(np.load(index_path(shard, shard.parent), allow_pickle=False), rows)
    assert record.num_samples == 50


def test_threads_load_indexes_while_garbage_is_collected(shard: Path) -> None:
    """np.load would fail here in some of the calls, on Python 3.11.7 and 3.12.1 (python/cpython#106905)."""

    class Garbage:
        """Lets go of the interpreter when it is collected, which may be in the middle of anything."""

        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            time.sleep(0)

    def load() -> int:
        Garbage()
        return len(load_index(index_path(shard, shard.parent), 5))

    write_tar(shard, sample_members(range(5)))
    index_shard(shard, shard.parent)
    thresholds = gc.get_threshold()
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(3) as pool:
            counts = [future.result() for future in [pool.submit(load) for _ in range(400)]]
    finally:
        gc.set_threshold(*thresholds)
    assert counts == [5] * 400


def test_directories_and_files_of_no_sample_are_passed_over(shard: Path) -> None:
    with tarfile.open(shard, "w") as tar:
        for name, type_, content in [
            ("train", tarfile.DIRTYPE, b""),
            ("README", tarfile.REGTYPE, b"hello"),
            ("train/LICENSE.txt", tarfile.REGTYPE, b"free"),
            ("train/000.png", tarfile.REGTYPE, encode(noise(0))),
            ("train/000.json", tarfile.REGTYPE, b"{}"),
            ("train/other", tarfile.DIRTYPE, b""),
            ("train/other/000.txt", tarfile.REGTYPE, b"a caption"),
            ("train/other/000.png", tarfile.REGTYPE, encode(noise(1))),
            ("checksums.sha256", tarfile.REGTYPE, b""),
        ]:
            information = tarfile.TarInfo(name)
            information.type, information.size = type_, len(content)
            tar.addfile(information, io.BytesIO(content))
    record, rows = index(shard)
    assert payloads(shard, rows) == [encode(noise(0)), encode(noise(1))]
    assert rows["label"].tolist() == [NO_LABEL, NO_LABEL]
    assert (record.num_labelled, record.num_classes) == (0, 0)


def test_hidden_files_are_passed_over(shard: Path) -> None:
    """What macOS's tar puts between the members (._NAME), and .DS_Store: webdataset does not see them either."""
    members = [(".DS_Store", b"folder")]
    for name, content in sample_members(range(3)):
        members += [(f"._{name}", b"resource fork"), (name, content)]
    write_tar(shard, members)
    _, rows = index(shard)
    assert payloads(shard, rows) == [sample["png"] for sample in read_webdataset(shard)] == [encode(noise(number)) for number in range(3)]
    assert rows["label"].tolist() == [0, 1, 2]


def test_members_of_other_dots_belong_to_the_sample(shard: Path) -> None:
    """The key ends at the first dot of the last part, as webdataset has it."""
    of_a = [("a.seg.png", b"a mask"), ("a.png", encode(noise(0))), ("a.text.cls", b"a word")]
    write_tar(shard, [*of_a, ("b.PNG", encode(noise(1))), ("b.CLS", b"4")])
    _, rows = index(shard)
    assert payloads(shard, rows) == [encode(noise(0)), encode(noise(1))]
    assert rows["label"].tolist() == [NO_LABEL, 4]


@pytest.mark.parametrize(
    ("mode", "extension", "channels"),
    [
        ("1", "png", 1),
        ("L", "png", 1),
        ("LA", "png", 1),
        ("I;16", "png", 1),
        ("P", "png", 3),
        ("RGB", "png", 3),
        ("RGBA", "png", 3),
        ("L", "jpg", 1),
        ("L", "jpeg", 1),
        ("RGB", "jpg", 3),
        ("CMYK", "jpg", 3),
        ("RGB", "webp", 3),
        ("L", "bmp", 1),
        ("RGB", "bmp", 3),
        ("L", "pgm", 1),
        ("RGB", "ppm", 3),
    ],
)
def test_kinds_of_images(shard: Path, mode: str, extension: str, channels: int) -> None:
    pixels = noise(1, height=5, width=7, channels=3)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    assert image.mode == mode
    content = encode(image, extension)
    write_tar(shard, [(f"a.{extension}", content)])
    record, rows = index(shard)
    assert payloads(shard, rows) == [content]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["channels"]) == (7, 5, channels)
    assert (record.channels, record.min_side, record.max_side, record.num_not_square) == (channels, 5, 7, 1)


@pytest.mark.parametrize(("text", "label"), [(b"0", 0), (b"7\n", 7), (b" 12 ", 12), (b"007", 7), (b"2147483647", 2**31 - 1)])
def test_labels(shard: Path, text: bytes, label: int) -> None:
    write_tar(shard, [("a.png", encode(noise(0))), ("a.cls", text)])
    assert index(shard)[1]["label"].tolist() == [label]


def test_blocking_factor_of_the_end_does_not_matter(shard: Path) -> None:
    """Two zero blocks end a tar; most writers fill up to 10 KiB."""
    write_tar(shard, sample_members(range(3)))
    last_name, last_content = sample_members(range(3))[-1]
    content_bytes = member_offsets(shard)[last_name][1] + -(-len(last_content) // 512) * 512
    shard.write_bytes(shard.read_bytes()[:content_bytes] + bytes(1024))
    assert index(shard)[0].num_samples == 3


def test_rows_are_what_a_stream_of_webdataset_holds(tmp_path: Path) -> None:
    """Also where samples have no label, or several members besides the image."""
    path = tmp_path / "mixed.tar"
    with TarWriter(str(path), mtime=0) as writer:
        for number in range(20):
            image = encode(noise(number, 16, 16, 3), "jpg")
            sample = {"__key__": f"part/{number:05d}", "jpg": image, "json": {"number": number}, "txt": "text"}
            writer.write(sample if number % 3 else {**sample, "cls": number})
    record, rows = index(path)
    samples = read_webdataset(path)
    assert payloads(path, rows) == [sample["jpg"] for sample in samples]
    assert rows["label"].tolist() == [int(sample["cls"]) if "cls" in sample else NO_LABEL for sample in samples]
    assert (record.num_labelled, record.num_classes) == (7, 19)
