"""A shard's index: its rows point at exactly the bytes of the images, and what is not whole is refused by name."""

import gc
import gzip
import io
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset.writer import TarWriter

from distgan.data.shards.damage import FAIL
from distgan.data.shards.grouping import NO_LABEL, SAMPLE
from distgan.data.shards.index import ShardRecord, index_path, index_shard, load_index, sha256_of
from distgan.errors import InputError
from tests.shards import (
    Member,
    encode,
    flip_bit,
    member_offsets,
    noise,
    read_webdataset,
    sample_members,
    write_shard_writer,
    write_tar,
    write_webdataset,
)

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Where a test writes its shard; its index goes to the same directory."""
    return tmp_path / "shard.tar"


def rows_of(shard: Path, record: ShardRecord) -> np.ndarray:
    return load_index(index_path(shard, shard.parent), record.num_samples)


def index(shard: Path) -> tuple[ShardRecord, np.ndarray]:
    """A whole shard's record and rows."""
    record = index_shard(shard, shard.parent)
    FAIL.check([(shard, record)])
    return record, rows_of(shard, record)


def refusal(shard: Path) -> str:
    """The sentences with which the shard is refused."""
    with pytest.raises(InputError) as caught:
        index(shard)
    assert str(shard) in str(caught.value)
    return str(caught.value)


def payloads(shard: Path, rows: np.ndarray) -> list[bytes]:
    """The bytes at which the rows point; each with the checksum that the row has."""
    content = shard.read_bytes()
    found = [content[int(row["offset"]) : int(row["offset"] + row["bytes"])] for row in rows]
    assert [zlib.crc32(payload) for payload in found] == rows["crc32"].tolist()
    return found


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


# What is damaged. Each function writes the shard and returns words that the sentence must hold.


def _members() -> list[Member]:
    """Six samples of a label, a side member and an image of more than one block."""
    members = []
    for number in range(6):
        key = f"{number:06d}"
        members += [(f"{key}.cls", b"3"), (f"{key}.json", b"{}"), (f"{key}.png", encode(noise(number, 32, 32)))]
    return members


def _write(shard: Path, members: Iterable[Member]) -> bytearray:
    write_tar(shard, members)
    return bytearray(shard.read_bytes())


def _whole(shard: Path) -> tuple[bytearray, dict[str, tuple[int, int]]]:
    content = _write(shard, _members())
    return content, member_offsets(shard)


def not_a_tar(shard: Path) -> str:
    shard.write_bytes(encode(noise(0, 64, 64)))
    return "tar"


def shorter_than_a_header(shard: Path) -> str:
    shard.write_bytes(b"x" * 100)
    return "tar"


def empty_file(shard: Path) -> str:
    shard.write_bytes(b"")
    return "tar"


def zeros(shard: Path) -> str:
    shard.write_bytes(bytes(10240))
    return "without any file"


def compressed(shard: Path) -> str:
    shard.write_bytes(gzip.compress(bytes(_whole(shard)[0])))
    return "tar"


def zeroed_header(shard: Path) -> str:
    content, offsets = _whole(shard)
    start = offsets["000003.cls"][0]
    content[start : start + 512] = bytes(512)
    shard.write_bytes(content)
    return "damaged"


def zeroed_header_of_the_last_member(shard: Path) -> str:
    content, offsets = _whole(shard)
    start = offsets["000005.png"][0]
    content[start : start + 512] = bytes(512)
    shard.write_bytes(content)
    return "000005"


def wrong_header_checksum(shard: Path) -> str:
    content, offsets = _whole(shard)
    content[offsets["000003.cls"][0] + 3] ^= 1
    shard.write_bytes(content)
    return "damaged"


def wrong_header_checksum_inside_a_sample(shard: Path) -> str:
    content, offsets = _whole(shard)
    content[offsets["000003.json"][0] + 3] ^= 1
    shard.write_bytes(content)
    return "000003"


def wrong_first_header(shard: Path) -> str:
    content, _ = _whole(shard)
    content[3] ^= 1
    shard.write_bytes(content)
    return "tar"


def cut_at_a_member(shard: Path) -> str:
    content, offsets = _whole(shard)
    shard.write_bytes(content[: offsets["000003.cls"][0]])
    return "cut short"


def cut_inside_a_header(shard: Path) -> str:
    content, offsets = _whole(shard)
    shard.write_bytes(content[: offsets["000003.cls"][0] + 200])
    return "damaged"


def cut_inside_a_payload(shard: Path) -> str:
    content, offsets = _whole(shard)
    shard.write_bytes(content[: offsets["000003.png"][1] + 600])
    return "cut short"


def cut_inside_the_last_payload(shard: Path) -> str:
    content, offsets = _whole(shard)
    shard.write_bytes(content[: offsets["000005.png"][1] + 600])
    return "cut short"


def cut_inside_the_end_mark(shard: Path) -> str:
    content, _ = _whole(shard)
    shard.write_bytes(bytes(content).rstrip(b"\0"))
    return "shard.tar"


def zeroed_second_half(shard: Path) -> str:
    """What a download into a preallocated file leaves when it stops inside a payload."""
    content = _write(shard, [(f"{number}.ppm", encode(noise(number, 400, 400, 3), "ppm")) for number in range(6)])
    half = member_offsets(shard)["2.ppm"][1] + 1000
    shard.write_bytes(content[:half] + bytes(len(content) - half))
    return "shard.tar"


def two_tars_joined(shard: Path) -> str:
    content, _ = _whole(shard)
    shard.write_bytes(content + content)
    return "damaged"


def garbage_after_the_end(shard: Path) -> str:
    content, _ = _whole(shard)
    shard.write_bytes(content + b"x")
    return "damaged"


def doubled_key(shard: Path) -> str:
    _write(shard, sample_members([0, 1, 0]))
    return "000000"


def interleaved_keys(shard: Path) -> str:
    members = sample_members(range(2))
    _write(shard, members[::2] + members[1::2])
    return "000000"


def doubled_member(shard: Path) -> str:
    _write(shard, [*sample_members([0]), ("000000.png", encode(noise(5)))])
    return "000000.png"


def doubled_label(shard: Path) -> str:
    _write(shard, [("a.cls", b"1"), ("a.png", encode(noise(5))), ("a.cls", b"2")])
    return "a.cls"


def two_images(shard: Path) -> str:
    _write(shard, [*sample_members([0]), ("000000.jpg", encode(noise(5), "jpg"))])
    return "000000"


def label_without_image(shard: Path) -> str:
    _write(shard, [*sample_members([0]), ("000001.cls", b"1"), *sample_members([2])])
    return "000001"


def label_of_words(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"cat")])
    return "'a'"


def negative_label(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"-1")])
    return "'a'"


def empty_label(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"")])
    return "'a'"


def label_of_two_numbers(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"1 2")])
    return "'a'"


def label_with_a_long_tail(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"1" + b" " * 40 + b"dog")])
    return "'a'"


def label_too_large(shard: Path) -> str:
    _write(shard, [("a.png", encode(noise(0))), ("a.cls", b"2147483648")])
    return "'a'"


def not_an_image(shard: Path) -> str:
    _write(shard, [*sample_members([0]), ("000001.png", b"hello"), ("000001.cls", b"1")])
    return "000001.png"


def empty_image(shard: Path) -> str:
    _write(shard, [("a.png", b"")])
    return "a.png"


def half_an_image(shard: Path) -> str:
    """Cut before it was packed: its header still reads."""
    content = encode(noise(0, 64, 64))
    _write(shard, [("a.png", content[: len(content) // 2])])
    return "a.png"


def flipped_pixels(shard: Path) -> str:
    """The checksum inside the PNG tells."""
    content = bytearray(encode(noise(0, 64, 64)))
    content[len(content) // 2] ^= 1
    _write(shard, [("a.png", bytes(content))])
    return "a.png"


def no_image(shard: Path) -> str:
    _write(shard, [("a.json", b"{}"), ("b.txt", b"hello")])
    return "no image"


def only_a_directory(shard: Path) -> str:
    with tarfile.open(shard, "w") as tar:
        information = tarfile.TarInfo("folder")
        information.type = tarfile.DIRTYPE
        tar.addfile(information)
    return "without any file"


def sparse_image(shard: Path) -> str:
    """GNU tar's --sparse: the bytes in the tar are not the file's."""
    content = encode(noise(0), "bmp")
    information = tarfile.TarInfo("a.bmp")
    information.size, information.type = len(content), tarfile.GNUTYPE_SPARSE
    header = bytearray(information.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, len(content))  # the one map entry: where, how much
    header[483:495] = b"%011o\0" % (len(content) + 512)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    shard.write_bytes(header + content + bytes(-len(content) % 512) + bytes(1024))
    return "a.bmp"


def sparse_image_in_pax(shard: Path) -> str:
    content = encode(noise(0), "bmp")
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
        information = tarfile.TarInfo("a.bmp")
        information.size = len(content)
        information.pax_headers = {"GNU.sparse.size": str(len(content) + 512), "GNU.sparse.map": f"0,{len(content)}"}
        tar.addfile(information, io.BytesIO(content))
    return "a.bmp"


def _link(shard: Path, type_: bytes) -> str:
    with tarfile.open(shard, "w") as tar:
        information = tarfile.TarInfo("a.png")
        information.size = len(encode(noise(0)))
        tar.addfile(information, io.BytesIO(encode(noise(0))))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = type_, "a.png"
        tar.addfile(link)
    return "b.png"


def hard_link_to_an_image(shard: Path) -> str:
    """GNU tar writes one for the second name of a file."""
    return _link(shard, tarfile.LNKTYPE)


def symbolic_link_to_an_image(shard: Path) -> str:
    return _link(shard, tarfile.SYMTYPE)


def _with_size(shard: Path, size: bytes) -> str:
    """A member whose header says so, with the right checksum."""
    content, offsets = _whole(shard)
    start = offsets["000003.png"][0]
    content[start + 124 : start + 136] = size
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    shard.write_bytes(content)
    return "shard.tar"


def size_below_zero(shard: Path) -> str:
    return _with_size(shard, b"\xff" * 10 + b"\xf0\x00")  # -4096 in base 256


def size_beyond_every_file(shard: Path) -> str:
    return _with_size(shard, b"\x80" + b"\x7f" * 11)


DAMAGES = [
    not_a_tar,
    shorter_than_a_header,
    empty_file,
    zeros,
    compressed,
    zeroed_header,
    zeroed_header_of_the_last_member,
    wrong_header_checksum,
    wrong_header_checksum_inside_a_sample,
    wrong_first_header,
    cut_at_a_member,
    cut_inside_a_header,
    cut_inside_a_payload,
    cut_inside_the_last_payload,
    cut_inside_the_end_mark,
    zeroed_second_half,
    two_tars_joined,
    garbage_after_the_end,
    doubled_key,
    interleaved_keys,
    doubled_member,
    doubled_label,
    two_images,
    label_without_image,
    label_of_words,
    negative_label,
    empty_label,
    label_of_two_numbers,
    label_with_a_long_tail,
    label_too_large,
    not_an_image,
    empty_image,
    half_an_image,
    flipped_pixels,
    no_image,
    only_a_directory,
    sparse_image,
    sparse_image_in_pax,
    hard_link_to_an_image,
    symbolic_link_to_an_image,
    size_below_zero,
    size_beyond_every_file,
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", "-"))
def test_damage_is_refused(shard: Path, damage: Callable[[Path], str]) -> None:
    words = damage(shard)
    assert words in refusal(shard)


def test_the_damage_that_tar_readers_pass_over(shard: Path) -> None:
    """Why there is an index at all: webdataset reads on, or stops, without a word."""
    for damage in (zeroed_header, wrong_header_checksum, cut_at_a_member):
        damage(shard)
        assert len(read_webdataset(shard)) == 3


@pytest.mark.timeout(30)
@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_anywhere_is_refused(shard: Path, format: str) -> None:
    long = "/".join(["name"] * 30)
    whole = write_tar(shard, [(f"{long}/{name}", content) for name, content in _members()[:6]], FORMATS[format]).read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512 + 1024  # the end mark; fill follows
    for cut in {*range(0, end, 61), end - 1, end - 512, end - 513}:
        shard.write_bytes(whole[:cut])
        refusal(shard)
    shard.write_bytes(whole[:end])
    assert index(shard)[0].num_samples == 2


@pytest.mark.timeout(30)
@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_bit_is_refused_or_harmless(shard: Path, format: str) -> None:
    """Never another exception, a lost sample, or a row of other bytes than the tar's."""
    long = "/".join(["name"] * 30)
    members = [(f"{long}/{name}", content) for name, content in _members()[:6]]
    whole = write_tar(shard, members, FORMATS[format]).read_bytes()
    sentences = []
    for offset in np.random.default_rng(0).integers(0, len(whole.rstrip(b"\0")) + 1024, 120).tolist():
        shard.write_bytes(whole)
        flip_bit(shard, offset)
        try:
            _, rows = index(shard)
        except InputError as error:
            sentences.append(str(error))
        else:
            assert len(payloads(shard, rows)) == 2
    assert len(sentences) > 30
    assert all(str(shard) in sentence for sentence in sentences)


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
