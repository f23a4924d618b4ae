"""Tars that come as a stream: every member of every one of them, or a sentence; whatever a header says, nothing large is kept."""

import bz2
import gzip
import io
import itertools
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from distgan.data.streaming.tar_stream import MAX_HEADER_BYTES, DamagedStreamError, StreamedMember, walk

FORMATS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]


def content_of(name: str) -> bytes:
    """Of any length up to 3,000 bytes, which only the name decides."""
    generator = random.Random(name)
    return generator.randbytes(generator.randrange(3000))


def make_tar(names: Iterable[str], format: int = tarfile.GNU_FORMAT, padded: bool = True) -> bytes:
    """A tar of plain files; not `padded`: it ends with its end mark, as bsdtar's do."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name in names:
            information = tarfile.TarInfo(name)
            information.size = len(content_of(name))
            tar.addfile(information, io.BytesIO(content_of(name)))
        end = tar.offset + 1024
    return file.getvalue() if padded else file.getvalue()[:end]


def read(stream: bytes, wanted: Callable[[str, int], bool] = lambda name, num_bytes: True) -> tuple[list[StreamedMember], str | None]:
    """What came, and the sentence it ended with, if it did."""
    members = []
    try:
        for member in walk(io.BytesIO(stream), wanted):
            members.append(member)
    except DamagedStreamError as error:
        return members, str(error)
    return members, None


def as_written(members: list[StreamedMember], names: list[str]) -> bool:
    return [(member.name, member.content, member.num_bytes) for member in members] == [
        (name, content_of(name), len(content_of(name))) for name in names
    ]


NAMES = ["a.png", "b/c.png", "x" * 90 + "/" + "y" * 90 + ".png", "d.cls"]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_every_member_comes(format: int, padded: bool) -> None:
    members, error = read(make_tar(NAMES, format, padded))
    assert error is None
    assert as_written(members, NAMES)
    assert all(member.is_plain for member in members)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tars_after_each_other_are_one_stream(compress: Callable[[bytes], bytes]) -> None:
    """`cat a.tar b.tar`, at which Python's reader and webdataset end after the first."""
    parts = [(["a.png"], False), (["b.png", "c.png"], True), ([], True), (["d.png"], False)]
    stream = b"".join(compress(make_tar(names, padded=padded)) for names, padded in parts)
    members, error = read(stream)
    assert error is None
    assert as_written(members, ["a.png", "b.png", "c.png", "d.png"])


def test_only_what_is_wanted_is_kept() -> None:
    members, error = read(make_tar(NAMES), lambda name, num_bytes: name == "a.png" and num_bytes == len(content_of("a.png")))
    assert error is None
    assert [member.name for member in members] == NAMES
    assert [member.content for member in members] == [content_of("a.png"), None, None, None]


def test_links_and_directories() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("f.png", tarfile.FIFOTYPE)):
            information = tarfile.TarInfo(name)
            information.type, information.linkname = kind, "/etc/passwd"
            tar.addfile(information)
    members, error = read(file.getvalue())
    assert error is None
    assert [(member.name, member.is_plain, member.content) for member in members] == [
        (name, False, None) for name in ("s.png", "h.png", "f.png")
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_tar_that_is_cut_anywhere_says_so(format: int) -> None:
    stream = make_tar(NAMES[:3], format, padded=False)
    for length in sorted({*range(0, len(stream), 512), *range(7, len(stream), 509), len(stream) - 1}):
        members, error = read(stream[:length])
        assert error is not None, length
        assert as_written(members, NAMES[: len(members)])
    assert len(members) == 3
    assert "it is cut short" in error or "there is no tar header" in error


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_that_is_cut_or_damaged_says_so(compress: Callable[[bytes], bytes]) -> None:
    """Half a compressed file holds whole members; and a checksum at its end tells of what decompressed to other bytes."""
    stream = compress(make_tar(NAMES))
    for length in (len(stream) // 2, len(stream) - 12, len(stream) - 1):
        assert read(stream[:length])[1] is not None, length
    middle = len(stream) // 2
    assert read(stream[:middle] + bytes([stream[middle] ^ 1]) + stream[middle + 1 :])[1] is not None


@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_damaged_header_says_so(member: int) -> None:
    """Python's reader takes it for the end."""
    stream = bytearray(make_tar(["a.png", "b.png", "c.png"]))
    with tarfile.open(fileobj=io.BytesIO(bytes(stream))) as tar:
        offset = tar.getmembers()[member].offset
    stream[offset + 3] ^= 0x10
    if member:
        with tarfile.open(fileobj=io.BytesIO(bytes(stream))) as tar:
            assert len(tar.getmembers()) == member, "Python's reader sees nothing wrong"
    members, error = read(bytes(stream))
    assert as_written(members, ["a.png", "b.png"][:member])
    assert error == (
        f"is damaged after byte {offset} (bad checksum: there is no tar header)"
        if member
        else "is not a readable tar (bad checksum: there is no tar header)"
    )


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"", "is not a readable tar (empty file)"),
        (b"<!DOCTYPE html>" * 100, "is not a readable tar"),
        (make_tar(["a.png"]) + b"more" * 1000, "is damaged after byte"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), "is compressed with zstd, which is not read; let a command do it"),
        (make_tar(["a.png"]) + bytes(2 * MAX_HEADER_BYTES), f"no member begins within {MAX_HEADER_BYTES} bytes"),
    ],
)
def test_what_is_no_tar_says_so(stream: bytes, words: str) -> None:
    error = read(stream)[1]
    assert error is not None
    assert words in error


class Endless:
    """A header, and then the same block for ever."""

    def __init__(self, header: bytes, block: bytes) -> None:
        self._blocks = itertools.chain([header], itertools.repeat(block * 128))
        self.num_bytes = 0

    def read(self, count: int) -> bytes:
        self.num_bytes += count
        return next(self._blocks)[:count]


def header(kind: bytes, num_bytes: int, name: str = "a.png") -> bytes:
    information = tarfile.TarInfo(name)
    information.type, information.size = kind, num_bytes
    return information.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (header(tarfile.XHDTYPE, 1 << 40), b"12 path=abc\n" * 43),  # a name of a terabyte
        (header(tarfile.GNUTYPE_LONGNAME, 1 << 40), b"a" * 512),
        (header(tarfile.XHDTYPE, 0), header(tarfile.XHDTYPE, 0)),  # names of names of names
        (header(tarfile.XGLTYPE, 0), header(tarfile.XGLTYPE, 0)),
        (header(tarfile.REGTYPE, 0), bytes(512)),  # an end without end
        (header(tarfile.REGTYPE, -512), header(tarfile.REGTYPE, -512)),
    ],
)
def test_a_stream_without_end_is_given_up_early(first: bytes, block: bytes) -> None:
    stream = Endless(first, block[:512].ljust(512, b"\0"))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedStreamError):
            list(walk(stream, lambda *_: False))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.num_bytes < 4 * MAX_HEADER_BYTES
    assert peak_bytes < 16 * MAX_HEADER_BYTES


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (header(tarfile.XHDTYPE, 10**6) + b"1" * 10**6, "a header claims 1000000 bytes"),  # half an hour for tarfile
        (header(tarfile.GNUTYPE_SPARSE, 512), "index out of range"),  # below, its map goes on after the end
    ],
)
def test_hostile_headers_say_so(end: bytes, words: str) -> None:
    if end[156:157] == tarfile.GNUTYPE_SPARSE:
        goes_on = bytearray(end)
        goes_on[482] = 1
        goes_on[148:156] = b" " * 8
        goes_on[148:156] = b"%06o\0 " % sum(goes_on)
        end = bytes(goes_on)
    members, error = read(make_tar(["a.png"], padded=False)[:-1024] + end)
    assert as_written(members, ["a.png"])
    assert error is not None
    assert words in error


def test_a_large_member_that_nobody_wants_is_passed_over() -> None:
    large = 64 << 20
    blocks = itertools.chain(
        [header(tarfile.REGTYPE, large, "a.mp4")], itertools.repeat(bytes(1 << 16), large >> 16), [make_tar(["b.png"])]
    )
    rest = bytearray()

    class Stream:
        def read(self, count: int) -> bytes:
            if not rest:
                rest.extend(next(blocks, b""))
            taken = bytes(rest[:count])
            del rest[:count]
            return taken

    tracemalloc.start()
    try:
        members = list(walk(Stream(), lambda name, num_bytes: name.endswith(".png")))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(member.name, member.content) for member in members] == [("a.mp4", None), ("b.png", content_of("b.png"))]
    assert peak_bytes < 4 << 20
