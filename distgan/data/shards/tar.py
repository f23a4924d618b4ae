"""Every member of a tar, and every place where there should be one and is not.

Python's reader ends at the first damaged header without a word. Here what follows the last readable header must be the two zero blocks
that end a tar; if it is not, it is a gap with a name, and reading goes on at the next header that is whole (its checksum is right),
wherever it begins: bytes may have been lost or doubled.
"""

import re
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 2**16  # of all headers of a member together: long names and pax records come in headers of any size and number
_CHUNK_BYTES = 1 << 20
_MAX_PADDING = 2 * BLOCK + tarfile.RECORDSIZE
_MAGIC, _MAGIC_PLACE = b"ustar", 257  # in POSIX's and GNU's headers; the tars of 1979 have none
_MANY_DIGITS = re.compile(rb"\d{64}")


@dataclass(frozen=True)
class Member:
    """A header and where its content lies."""

    name: str
    start: int  # of the first of its headers
    offset: int  # of the content
    bytes: int
    is_directory: bool
    is_plain: bool  # neither a link, nor a device, nor sparse
    is_sparse: bool


@dataclass(frozen=True)
class Gap:
    """Bytes in which no member could be read.

    Attributes:
        reason: completes a sentence that begins with the shard's name.
        is_cut: the tar ends here, too early: nobody knows what is lost.
    """

    start: int
    end: int
    reason: str
    is_cut: bool = False


def walk(file: BinaryIO, size: int) -> Iterator[Member | Gap]:
    """The members and gaps of a tar of `size` bytes, in order; nothing is read into memory but headers. Between two gaps is a member.

    Raises:
        tarfile.ReadError: nothing of it is a tar.
    """
    gap: Gap | None = None
    for item in _items(file, size):
        if isinstance(item, Gap):
            gap = item if gap is None else replace(_gap(gap.start, item.end, size), is_cut=item.is_cut)
            continue
        if gap is not None:
            yield gap
            gap = None
        yield item
    if gap is not None:
        yield gap


def _items(file: BinaryIO, size: int) -> Iterator[Member | Gap]:
    offset = 0
    while True:
        bad, lost_from, reason = yield from _run(file, offset, size)
        if reason is None:
            reason = _check_end(file, bad, size)
            if reason is None:
                return
        is_first = offset == bad == 0
        offset = _next_header(file, lost_from, size)
        if is_first and offset >= size and not _looks_like_tar(file):
            raise tarfile.ReadError("it begins with no tar header, and holds none")
        if offset >= size:
            yield Gap(bad, offset, reason, is_cut=_is_cut(file, size))
            return
        yield _gap(min(bad, offset), offset, size)


def _gap(start: int, end: int, size: int) -> Gap:
    if start == end:
        return Gap(start, end, f"is damaged before byte {start}, where bytes are missing; copy or pack it again")
    where = f"from byte {start} to byte {end}" if end < size else f"from byte {start} on"
    return Gap(start, end, f"is damaged {where}, where no member can be read; copy or pack it again")


def _run(file: BinaryIO, offset: int, size: int) -> Generator[Member, None, tuple[int, int, str | None]]:
    """Members from `offset` on, as far as they go -> where that ends, from where on the next header may stand, and why it ends (None: at
    something that is no header)."""
    file.seek(offset)
    headers = _Headers(file)
    start, lost_from = offset, offset + 1
    try:
        tar = tarfile.TarFile(fileobj=headers, mode="r")  # pyright: ignore[reportArgumentType] - all that it calls is there
        while (info := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it would keep them all
            is_plain = info.isfile() and not info.issparse()
            if info.size < 0:
                return start, start + 1, f"holds {info.name!r} of {info.size} bytes; copy or pack it again"
            if (is_plain and info.offset_data + info.size > size) or tar.offset >= size + BLOCK:
                return start, start + 1, f"ends inside {info.name!r}: it is cut short; copy or pack it again"
            if info.offset_data - start > BLOCK:
                _check_long_headers(file, start, info.offset_data)
            yield Member(info.name, start, info.offset_data, info.size, info.isdir(), is_plain, info.issparse())
            start = tar.offset
            lost_from = min(info.offset_data + info.size, start) if is_plain else start  # where bytes were lost, in what should be padding
            headers.begin()
    except (tarfile.TarError, ValueError, OverflowError, IndexError) as error:  # IndexError: of a sparse file's map that is cut
        if start > size:
            return size, size, "ends inside the padding of a member: it is cut short; copy or pack it again"
        return start, start + 1, f"is not a readable tar after byte {start} ({error}); copy or pack it again"
    return start, lost_from, None


def _check_long_headers(file: BinaryIO, start: int, end: int) -> None:
    """Long names and pax records, which stand before a member's own header, must be whole: tarfile takes what it finds of them.

    Raises:
        tarfile.ReadError: it is not.
    """
    file.seek(start)
    content = file.read(end - start)
    while len(content) > BLOCK:
        header = tarfile.TarInfo.frombuf(content[:BLOCK], "utf-8", "surrogateescape")
        body = content[BLOCK : BLOCK + header.size]
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            is_whole = 0 not in body[:-1] and len(body) > 1
        elif header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
            is_whole = _are_pax_records(body)
        else:
            return  # a sparse file's map
        if not is_whole:
            raise tarfile.ReadError("a long name or a pax record is damaged")
        content = content[BLOCK + -(-header.size // BLOCK) * BLOCK :]


def _are_pax_records(body: bytes) -> bool:
    """Whether these are records of '%d %s=%s\\n', the number being a record's length (POSIX.1-2008, pax)."""
    while body:
        digits = body[:10].partition(b" ")[0]
        record = body[: int(digits)] if digits.isdigit() else b""
        if not record.endswith(b"\n") or b"=" not in record or len(record) != int(digits):
            return False
        body = body[len(record) :]
    return True


class _Headers:
    """The file from which tarfile reads headers. It takes their word for how long they are, and recurses into one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.begin()

    def begin(self) -> None:
        """Of another member."""
        self._left_bytes = MAX_HEADER_BYTES

    def read(self, num_bytes: int) -> bytes:
        """Bytes of a header; raises tarfile.ReadError where they are too many."""
        self._left_bytes -= num_bytes
        if num_bytes < 0 or self._left_bytes < 0:
            raise tarfile.ReadError("a header is too large")
        content = self._file.read(num_bytes)
        if num_bytes > BLOCK and _MANY_DIGITS.search(content):  # on which tarfile spends quadratic time: CVE-2024-6232
            raise tarfile.ReadError("a header holds too large a number")
        return content


def _looks_like_tar(file: BinaryIO) -> bool:
    """Whether a header, though a damaged one, may stand at the beginning."""
    file.seek(0)
    block = file.read(BLOCK)
    return len(block) == BLOCK and (block[_MAGIC_PLACE:].startswith(_MAGIC) or block.count(0) == BLOCK)


def _check_end(file: BinaryIO, offset: int, size: int) -> str | None:
    """What follows the last header that was read must be at least two zero blocks, and zeros only; else the reason why it is no end."""
    for _, content in _chunks(file, offset):
        if content.count(0) != len(content):
            return f"is damaged after byte {offset}: what follows is no tar header; copy or pack it again"
    rest_bytes = max(size - offset, 0)
    if rest_bytes < 2 * BLOCK:
        return f"ends at byte {offset} without the end mark of a tar: it is cut short; copy or pack it again"
    if rest_bytes > _MAX_PADDING:  # more than any padding: a hole that a crash left, most likely
        return f"holds {rest_bytes} zero bytes after byte {offset}, where it should end; copy or pack it again"
    return None


def _is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the end mark is missing."""
    file.seek(max(0, size - 2 * BLOCK))
    return file.read(2 * BLOCK) != bytes(2 * BLOCK)


def _next_header(file: BinaryIO, offset: int, size: int) -> int:
    """Where the first whole header from `offset` on stands; `size` if there is none."""
    for start, content in _chunks(file, offset, overlap=BLOCK - 1):
        place = content.find(_MAGIC, _MAGIC_PLACE)
        while place >= 0:
            header = place - _MAGIC_PLACE
            try:
                tarfile.TarInfo.frombuf(content[header : header + BLOCK], "utf-8", "surrogateescape")
                return start + header
            except (tarfile.TarError, ValueError):
                place = content.find(_MAGIC, place + 1)
    return size


def _chunks(file: BinaryIO, offset: int, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
    """The file from `offset` on in pieces that share `overlap` bytes; small ones first, as what is looked for is mostly near."""
    num_bytes = 2 * BLOCK
    while True:
        file.seek(offset)
        content = file.read(num_bytes + overlap)
        if not content:
            return
        yield offset, content
        offset += num_bytes
        num_bytes = min(2 * num_bytes, _CHUNK_BYTES)
