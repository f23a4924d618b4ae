"""Shards that somebody made to run code, to reach other files, or to take all memory."""

import functools
import io
import os
import pickle
import stat
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distgan.bench.damage.cases import SIDE, Case, Member, damage, members, pack

_code = functools.partial(damage, "code in the data")
_path = functools.partial(damage, "paths")
_bomb = functools.partial(damage, "bombs")


class _Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self._file = str(directory / "canary")

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._file, "w")


def _with(directory: Path, *more: Member | tarfile.TarInfo, without: str = "") -> None:
    """Sample 7 has further members, after its own."""
    packed: list[Member | tarfile.TarInfo] = [member for member in members() if member[0] != without]
    place = packed.index(next(member for member in packed if not isinstance(member, tarfile.TarInfo) and member[0] == "000008.cls"))
    pack(directory / "shard.tar", packed[:place] + list(more) + packed[place:])


_SECURE = {"WDS_SECURE": "1"}  # webdataset's own switch, which is off by default


@_code("a member .pkl", whole=20)
def _(directory: Path) -> None:
    _with(directory, ("000007.pkl", pickle.dumps(_Canary(directory))))


@_code("a member .pkl, WDS_SECURE=1", whole=20, environment=_SECURE)
def _(directory: Path) -> None:
    _with(directory, ("000007.pkl", pickle.dumps(_Canary(directory))))


@_code("a member .pyd", whole=20)
def _(directory: Path) -> None:
    _with(directory, ("000007.pyd", pickle.dumps(_Canary(directory))))


@_code("a member .pth", whole=20)
def _(directory: Path) -> None:
    content = io.BytesIO()
    torch.save(_Canary(directory), content)
    _with(directory, ("000007.pth", content.getvalue()))


def _array_of_objects(directory: Path) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([[_Canary(directory)]], dtype=object), allow_pickle=True)
    return content.getvalue()


@_code("a member .npy of objects", whole=20)
def _(directory: Path) -> None:
    _with(directory, ("000007.npy", _array_of_objects(directory)))


@_code("an image .npy of objects", whole=19)
def _(directory: Path) -> None:
    _with(directory, ("000007.npy", _array_of_objects(directory)), without="000007.png")


def _eps(directory: Path) -> Case:
    """Pillow hands an EPS to Ghostscript, for which a script stands in here."""
    script = directory / "bin" / "gs"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho ran > {directory / 'canary'}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    content = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(content, "eps")
    _with(directory, ("000007.png", content.getvalue()), without="000007.png")
    shard = str(directory / "shard.tar")
    return Case(shard, [shard], environment={"PATH": f"{script.parent}:{os.environ['PATH']}"})


@_code("an EPS under the name .png", whole=19)
def _(directory: Path) -> Case:
    return _eps(directory)


@_code("an EPS under the name .png, WDS_SECURE=1", whole=19)
def _(directory: Path) -> Case:
    case = _eps(directory)
    return replace(case, environment=case.environment | _SECURE)


def _pipe(directory: Path) -> Case:
    """Wherever the list of shards comes from."""
    pack(directory / "shard.tar", members())
    url = f"pipe:touch {directory / 'canary'}; cat {directory / 'shard.tar'}"
    return Case(url, [url])


@_code("a pipe: in place of a path", whole=20, declined=20)
def _(directory: Path) -> Case:
    return _pipe(directory)


@_code("a pipe: in place of a path, WDS_SECURE=1", whole=20, declined=20)
def _(directory: Path) -> Case:
    return replace(_pipe(directory), environment=_SECURE)


def _renamed(directory: Path, prefix: str) -> None:
    packed = [(prefix + name if name.startswith("000007") else name, content) for name, content in members()]
    pack(directory / "shard.tar", packed)


@_path("a member ../", whole=20, declined=1)
def _(directory: Path) -> None:
    _renamed(directory, "../")


@_path("a member of an absolute path", whole=20, declined=1)
def _(directory: Path) -> None:
    _renamed(directory, "/tmp/")  # noqa: S108 - nobody writes there


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    information = tarfile.TarInfo("000007.png")
    information.type, information.linkname = kind, target
    return information


@_path("an image that is a hard link", whole=19)
def _(directory: Path) -> None:
    _with(directory, _link(tarfile.LNKTYPE, "000006.png"), without="000007.png")


@_path("an image that is a symbolic link", whole=19)
def _(directory: Path) -> None:
    _with(directory, _link(tarfile.SYMTYPE, "/etc/hostname"), without="000007.png")


@_path("an image that is a device", whole=19)
def _(directory: Path) -> None:
    _with(directory, _link(tarfile.CHRTYPE, ""), without="000007.png")


def _header(name: str, num_bytes: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    information = tarfile.TarInfo(name)
    information.size, information.type = num_bytes, kind
    return information.tobuf(tarfile.GNU_FORMAT)


def _insert(directory: Path, content: bytes) -> None:
    """Put bytes between two samples."""
    shard = directory / "shard.tar"
    place = pack(shard, members())["000008.cls"][0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:place] + content + whole[place:])


@_bomb("a header that claims 2 GB", whole=20)
def _(directory: Path) -> None:
    _insert(directory, _header("000007.txt", 2**31))


@_bomb("a long name that claims 2 GB", whole=20)
def _(directory: Path) -> None:
    _insert(directory, _header("name", 2**31, tarfile.GNUTYPE_LONGNAME))


@_bomb("1,500 extended headers in a row", whole=20)
def _(directory: Path) -> None:
    _insert(directory, (_header("pax", 12, tarfile.XHDTYPE) + b"12 foo=bar\n\n".ljust(512, b"\0")) * 1500)


@_bomb("extended headers of digits, 1 MB", whole=20)
def _(directory: Path) -> None:
    """On which tarfile spends quadratic time (CVE-2024-6232; Python from 3.11.10 and 3.12.6 on does not)."""
    _insert(directory, _header("pax", 2**20, tarfile.XHDTYPE) + b"1" * 2**20)


def _gzipped(start: bytes, num_zeros: int, end: bytes) -> bytes:
    """One gzip stream (RFC 1952) of start, zeros (a multiple of 2^20) and end; a block of zeros is compressed once."""

    def block(content: bytes, flush: int) -> bytes:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return compressor.compress(content) + compressor.flush(flush)

    zeros = bytes(2**20)
    checksum = zlib.crc32(start)
    for _ in range(num_zeros // len(zeros)):
        checksum = zlib.crc32(zeros, checksum)
    checksum = zlib.crc32(end, checksum)
    deflated = block(start, zlib.Z_FULL_FLUSH) + block(zeros, zlib.Z_FULL_FLUSH) * (num_zeros // len(zeros)) + block(end, zlib.Z_FINISH)
    size = (len(start) + num_zeros + len(end)) % 2**32
    return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + deflated + struct.pack("<II", checksum, size)


@_bomb("a shard of 1 MB, gzipped, that is 1 GB", whole=20, declined=20)
def _(directory: Path) -> Case:
    """Sample 18 has a further member, of zeros."""
    shard = directory / "shard.tar"
    end = pack(shard, members())["000019.cls"][0]
    content = shard.read_bytes()
    shard.unlink()
    shard = directory / "shard.tar.gz"
    shard.write_bytes(_gzipped(content[:end] + _header("000018.bin", 2**30), 2**30, content[end:]))
    return Case(str(shard), [str(shard)])


@_bomb("a member of 1 MB, gzipped, that is 1 GB", whole=20)
def _(directory: Path) -> None:
    _with(directory, ("000007.txt.gz", _gzipped(b"", 2**30, b"")))


def _png_bomb(side: int) -> bytes:
    """A PNG of side x side pixels, all of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(1 + 3 * side)) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@_bomb("a png of 14,000 x 14,000", whole=19)
def _(directory: Path) -> None:
    _with(directory, ("000007.png", _png_bomb(14_000)), without="000007.png")


@_bomb("a png of 10,000 x 10,000", whole=19)
def _(directory: Path) -> None:
    _with(directory, ("000007.png", _png_bomb(10_000)), without="000007.png")
