"""Damaged shards: each is refused by a sentence that names the shard and the sample."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from distgan.errors import InputError
from tests.shards import (
    Member,
    encode,
    flip_bit,
    member_offsets,
    noise,
    read_webdataset,
    sample_members,
    write_tar,
)
from tests.unit.data.shards.indexing import index, payloads

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def refusal(shard: Path) -> str:
    """The sentences with which the shard is refused."""
    with pytest.raises(InputError) as caught:
        index(shard)
    assert str(shard) in str(caught.value)
    return str(caught.value)


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
