"""The members of a stream that holds a tar, or several after each other, compressed or not; read forwards, and once.

Python's reader ends at the first damaged header, and at the end of the first tar, without a word, and believes every size it is told.
Here a damaged header is an error, reading goes on to the end of the stream, and nothing is kept that is larger than it may be.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol, Self

MAX_HEADER_BYTES = 1 << 20  # from one member to the next, with long names and the zeros that end a tar
_MAX_LONG_HEADER_BYTES = (
    1 << 14
)  # of one; on 16 KiB of digits tarfile's regular expressions spend 0.2 s, on 1 MiB 20 minutes: CVE-2024-6232
_LONG_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BUFFER_BYTES = 1 << 16
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
# IndexError: of a sparse file's map that is cut.
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, OverflowError, RecursionError, IndexError)


class DamagedStreamError(ValueError):
    """A stream is no tar, or is one no longer; the message completes a sentence that begins with the stream's name."""


@dataclass(frozen=True)
class StreamedMember:
    """A plain file, link, device, ... of a tar; directories are none.

    Attributes:
        num_bytes: of its content, as the header says.
        is_plain: neither a link, nor a device, nor sparse.
        content: None where nobody asked for it, and where it is not plain.
    """

    name: str
    num_bytes: int
    is_plain: bool
    content: bytes | None


class Incoming(Protocol):
    """What is read from: bytes that come once."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; none at the end.

        Raises:
            OSError: it could not be read to its end.
        """
        ...


def walk(incoming: Incoming, wanted: Callable[[str, int], bool]) -> Iterator[StreamedMember]:
    """The members in their order; the content of those plain ones that are `wanted` by their name and number of bytes.

    Raises:
        DamagedStreamError: it is no tar, is damaged, or ends too early; what was yielded before is whole.
    """
    end = 0  # of the last member
    try:
        source = _Limited(_decompressed(io.BufferedReader(_Raw(incoming), _BUFFER_BYTES)))
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_StrictInfo, ignore_zeros=True) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
            while (info := tar.next()) is not None:
                if info.size < 0:
                    raise ValueError(f"{info.name!r} has {info.size} bytes")
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it would keep them all
                end = tar.offset
                source.limit = end + MAX_HEADER_BYTES
                if info.isdir():
                    continue
                is_plain = info.isfile() and not info.issparse()
                file = tar.extractfile(info) if is_plain and wanted(info.name, info.size) else None
                yield StreamedMember(info.name, info.size, is_plain, file.read() if file else None)
            if tar.offset - end < 2 * tarfile.BLOCKSIZE:
                raise DamagedStreamError(f"ends at byte {end} without the end mark of a tar: it is cut short")
    except DamagedStreamError:
        raise
    except _DAMAGED as error:
        where = f"is damaged after byte {end}" if end else "is not a readable tar"
        raise DamagedStreamError(f"{where} ({getattr(error, 'strerror', None) or error})") from None


class _StrictInfo(tarfile.TarInfo):
    """A header that is none is an error: tarfile itself would pass over it, as it is asked to pass over the end of a tar in the middle."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == len(buf) in (0, tarfile.BLOCKSIZE):
                raise  # the end of a tar, or of the stream
            raise ValueError(f"{error}: there is no tar header") from None
        if info.type in _LONG_HEADERS and info.size > _MAX_LONG_HEADER_BYTES:
            raise ValueError(f"a header claims {info.size} bytes")
        return info


class _Raw(io.RawIOBase):
    """`Incoming` as a raw file."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        content = self._incoming.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Limited:
    """Refuses to give more than `limit` bytes altogether: tarfile reads all of a long name before it returns."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._count = 0
        self.limit = MAX_HEADER_BYTES

    def read(self, count: int) -> bytes:
        if self._count > self.limit:
            raise ValueError(f"no member begins within {MAX_HEADER_BYTES} bytes")
        content = self._source.read(count)
        self._count += len(content)
        return content


def _decompressed(source: io.BufferedReader) -> IO[bytes]:
    """The stream as gzip, bzip2 or xz had it before; these check what they read, and take several files after each other for one."""
    begin = source.peek(len(_XZ))
    if begin.startswith(_ZSTD):
        raise DamagedStreamError("is compressed with zstd, which is not read; let a command do it (data.url: 'pipe:zstd -dc x.tar.zst')")
    if begin.startswith(_GZIP):
        return gzip.GzipFile(fileobj=source, mode="rb")  # pyright: ignore[reportReturnType]
    if begin.startswith(_BZIP2):
        return bz2.BZ2File(source)
    return lzma.LZMAFile(source) if begin.startswith(_XZ) else source
