"""Tables of contents: where members lie, and what is refused or passed over."""

import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from distgan.data.packing.archives import Contents, scan_tar, scan_zip
from distgan.data.packing.items import MAX_CONTENT_BYTES, FileRange, ZipMember
from distgan.data.packing.places import UnreadableError, read_content
from distgan.errors import InputError
from tests.shards import flip_bit, noise, write_tar

FILES = {
    "a/1.png": noise(1, 30, 30).tobytes(),
    "2.png": b"",
    "./b/3.png": b"three" * 100,
    "x" * 120 + ".png": b"long",
    "été.png": b"accent",
}


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read_all(contents: Contents) -> dict[str, bytes]:
    return {name: read_content(place) for name, place in contents.places.items()}


def normal(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name.removeprefix("./"): content for name, content in files.items()}


@contextmanager
def peak_below(num_bytes: int) -> Iterator[None]:
    """Within this, no more memory is taken than so much."""
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < num_bytes


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_read_where_they_lie(tmp_path: Path, method: int) -> None:
    assert read_all(scan_zip(write_zip(tmp_path / "x.zip", FILES, method))) == normal(FILES)


def test_a_zip_behind_something_else_is_read(tmp_path: Path) -> None:
    """A self-extracting archive: offsets count from where the zip begins."""
    path = write_zip(tmp_path / "x.zip", FILES)
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    assert read_all(scan_zip(path)) == normal(FILES)


def test_the_extra_field_of_the_local_header_is_its_own(tmp_path: Path) -> None:
    """Info-ZIP writes another one into the central directory."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, archive.open(zipfile.ZipInfo("a.png"), "w", force_zip64=True) as file:
        file.write(b"content")
    assert read_all(scan_zip(tmp_path / "x.zip")) == {"a.png": b"content"}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_read_where_they_lie(tmp_path: Path, format: int) -> None:
    files = FILES if format != tarfile.USTAR_FORMAT else {name: content for name, content in FILES.items() if len(name) < 100}
    assert read_all(scan_tar(write_tar(tmp_path / "x.tar", files.items(), format), "x.tar")) == normal(files)


def test_links_and_devices_are_counted_and_directories_are_nothing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in [("d", tarfile.DIRTYPE), ("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("f.png", tarfile.FIFOTYPE)]:
            information = tarfile.TarInfo(name)
            information.type, information.linkname = kind, "/etc/passwd"
            tar.addfile(information)
    found = scan_tar(tmp_path / "x.tar", "x.tar")
    assert (found.num_links, found.places) == (3, {})
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("s.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("d/", "")
    found = scan_zip(tmp_path / "x.zip")
    assert (found.num_links, found.places) == (1, {})


def test_a_member_without_a_name_is_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("\0a"), b"x")
        archive.writestr("b.png", b"y")
    assert read_all(scan_zip(tmp_path / "x.zip")) == {"b.png": b"y"}


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/a.png", "a/.."])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="leads out of it"):
        scan_zip(write_zip(tmp_path / "x.zip", {name: b"x"}))
    with pytest.raises(InputError, match="leads out of it"):
        scan_tar(write_tar(tmp_path / "x.tar", [(name, b"x")]), "x.tar")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    """As when the archive is unpacked."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"old")
        archive.writestr("./a.png", b"new")
    tar = write_tar(tmp_path / "x.tar", [("a.png", b"old"), ("./a.png", b"new")])
    for found in (scan_zip(tmp_path / "x.zip"), scan_tar(tar, "x.tar")):
        assert read_all(found) == {"a.png": b"new"}
        assert [(entry.name, entry.reason) for entry in found.left_out] == [("a.png", "is in the archive again further on")]


def test_what_a_zip_hides_is_left_out_by_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"bz2.png": b"x" * 100}, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("secret.png", b"x")
        archive.getinfo("secret.png").flag_bits |= 1
    found = scan_zip(path)
    assert found.places == {}
    assert {entry.name: entry.reason for entry in found.left_out} == {
        "bz2.png": "is compressed by method 12, not stored or deflated",
        "secret.png": "is encrypted",
    }


def test_a_member_that_grows_beyond_its_claim_is_not_inflated(tmp_path: Path) -> None:
    """A bomb with a small claim: reading ends one byte after it."""
    path = write_zip(tmp_path / "x.zip", {"a.png": bytes(50_000_000)})
    (place,) = scan_zip(path).places.values()
    assert isinstance(place, ZipMember)
    assert place.compressed_bytes < 100_000
    small = ZipMember(place.path, place.header_offset, place.compressed_bytes, 1000, place.method, place.crc32)
    with pytest.raises(UnreadableError, match="length or checksum"), peak_below(2**20):
        read_content(small)
    huge = ZipMember(place.path, place.header_offset, place.compressed_bytes, MAX_CONTENT_BYTES + 1, place.method, place.crc32)
    with pytest.raises(UnreadableError, match="larger than 256 MiB"):
        read_content(huge)
    with pytest.raises(UnreadableError, match="larger than 256 MiB"):
        read_content(FileRange(place.path, 0, MAX_CONTENT_BYTES + 1))


def test_a_flipped_byte_in_a_zip_is_a_reason(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_zip(tmp_path / "x.zip", {"a.png": noise(0, 50, 50).tobytes()}, method)
        whole = path.read_bytes()
        for offset in (0, 60, 1500):
            path.write_bytes(whole)
            (place,) = scan_zip(path).places.values()
            flip_bit(path, offset)
            with pytest.raises(UnreadableError, match="damaged in its zip"):
                read_content(place)


def test_what_has_changed_since_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    place = FileRange(str(path), 0, 7)
    assert read_content(place) == b"content"
    path.write_bytes(b"less")
    with pytest.raises(UnreadableError, match="shorter than it was"):
        read_content(place)
    path.unlink()
    with pytest.raises(UnreadableError, match="No such file"):
        read_content(place)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9000])


def cut_at_the_end_mark(path: Path) -> None:
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512))


def flipped_header(path: Path) -> None:
    flip_bit(path, 512 + 1024 + 3)


def zeroed_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1536:2048] = bytes(512)
    path.write_bytes(content)


def garbage_behind(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def long_name_without_end(path: Path) -> None:
    """A header that claims a name of 2 GB: what is not there cannot be read, what is need not be kept in memory."""
    information = tarfile.TarInfo("././@LongLink")
    information.type, information.size = tarfile.GNUTYPE_LONGNAME, 2**31
    with open(path, "wb") as file:
        file.write(information.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**31 + 10_240)  # a hole


@pytest.mark.parametrize(
    "damage", [cut, cut_at_the_end_mark, flipped_header, zeroed_header, garbage_behind, nothing, long_name_without_end]
)
def test_a_damaged_tar_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Python's reader would end at most of these without a word."""
    path = write_tar(tmp_path / "x.tar", [("a.png", bytes(600)), ("b.png", bytes(600)), ("c.png", b"c" * 20_000)])
    scan_tar(path, "shown.tar.gz")
    damage(path)
    with pytest.raises(InputError, match=r"SRC is 'shown.tar.gz'"), peak_below(2**26):
        scan_tar(path, "shown.tar.gz")


def test_a_damaged_zip_is_refused_or_harmless(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", FILES)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    num_refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        if generator.random() < 0.3:
            del damaged[generator.integers(len(whole)) :]
        for place in generator.integers(0, len(damaged), 3) if damaged else []:
            damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            for place in scan_zip(path).places.values():
                read_content(place)
        except (InputError, UnreadableError):
            num_refused += 1
    assert num_refused > 100


def test_a_sparse_member_is_left_out_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        information = tarfile.TarInfo("a.bmp")
        information.size = 3
        information.pax_headers = {"GNU.sparse.size": "515", "GNU.sparse.map": "0,3"}
        tar.addfile(information, io.BytesIO(b"abc"))
    found = scan_tar(tmp_path / "x.tar", "x.tar")
    assert (found.places, [entry.reason for entry in found.left_out]) == ({}, ["is a sparse file"])
