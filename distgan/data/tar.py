"""Every member of a tar, and every place where there should be one and is not.

Python's reader ends at the first damaged header without a word. Here what follows the last readable header must be the two zero blocks
that end a tar; if it is not, it is a gap with a name, and reading goes on at the next header that is whole (its checksum is right).
"""

import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20
_MAX_PADDING = 2 * BLOCK + tarfile.RECORDSIZE
_MAGIC = np.frombuffer(b"ustar", np.uint8)  # at byte 257 of POSIX's and GNU's headers; the tars of 1979 have none


@dataclass(frozen=True)
class Member:
    """A header and where its content lies."""

    name: str
    offset: int  # of the content
    bytes: int
    is_directory: bool
    is_plain: bool  # neither a link, nor a device, nor sparse
    is_sparse: bool


@dataclass(frozen=True)
class Gap:
    """Bytes in which no member could be read; `reason` completes a sentence that begins with the shard's name."""

    bytes: int
    reason: str


def walk(file: BinaryIO, size: int) -> Iterator[Member | Gap]:
    """The members and gaps of a tar of `size` bytes, in order; nothing is read into memory but headers.

    Raises:
        tarfile.ReadError: it does not begin with a tar's header.
    """
    offset = 0
    while True:
        bad, reason = yield from _run(file, offset, size)
        if reason is None:
            ending = _check_end(file, bad, size)
            if ending is None:
                return
            reason = ending
        if offset == bad == 0 and not _looks_like_tar(file):
            raise tarfile.ReadError(reason)
        offset = _next_header(file, bad + BLOCK, size)
        where = f"from byte {bad} to byte {offset}" if offset < size else f"from byte {bad} on"
        yield Gap(offset - bad, reason if offset >= size else f"is damaged {where}, where no member can be read; copy or pack it again")
        if offset >= size:
            return


def _run(file: BinaryIO, offset: int, size: int) -> Generator[Member, None, tuple[int, str | None]]:
    """Members from `offset` on, as far as they go -> where that ends, and why (None: at something that is no header)."""
    file.seek(offset)
    tar = None
    try:
        tar = tarfile.TarFile(fileobj=file, mode="r")
        while (info := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it would keep them all
            if info.size < 0:
                return info.offset, f"holds {info.name!r} of {info.size} bytes; copy or pack it again"
            if info.isfile() and not info.issparse() and info.offset_data + info.size > size:
                return info.offset, f"ends inside {info.name!r}: it is cut short; copy or pack it again"
            yield Member(info.name, info.offset_data, info.size, info.isdir(), info.isfile() and not info.issparse(), info.issparse())
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
        bad = tar.offset if tar else offset
        if bad > size:
            return size, "ends inside the padding of a member: it is cut short; copy or pack it again"
        return bad, f"is not a readable tar after byte {bad} ({error}); copy or pack it again"
    return tar.offset, None


def _looks_like_tar(file: BinaryIO) -> bool:
    """Whether a header, though a damaged one, may stand at the beginning."""
    file.seek(0)
    block = file.read(BLOCK)
    return len(block) == BLOCK and (block[257:262] == _MAGIC.tobytes() or block.count(0) == BLOCK)


def _check_end(file: BinaryIO, offset: int, size: int) -> str | None:
    """What follows the last header that was read must be at least two zero blocks, and zeros only; else the reason why it is no end."""
    file.seek(offset)
    while block := file.read(_CHUNK_BYTES):
        if block.count(0) != len(block):
            return f"is damaged after byte {offset}: what follows is no tar header; copy or pack it again"
    rest_bytes = max(size - offset, 0)
    if rest_bytes < 2 * BLOCK:
        return f"ends at byte {offset} without the end mark of a tar: it is cut short; copy or pack it again"
    if rest_bytes > _MAX_PADDING:  # more than any padding: a hole that a crash left, most likely
        return f"holds {rest_bytes} zero bytes after byte {offset}, where it should end; copy or pack it again"
    return None


def _next_header(file: BinaryIO, offset: int, size: int) -> int:
    """Where the first whole header from `offset` on stands; `size` if there is none."""
    while offset < size:
        file.seek(offset)
        blocks = np.frombuffer(file.read(_CHUNK_BYTES), np.uint8)
        blocks = blocks[: len(blocks) // BLOCK * BLOCK].reshape(-1, BLOCK)
        for number in np.flatnonzero((blocks[:, 257:262] == _MAGIC).all(axis=1)):
            try:
                tarfile.TarInfo.frombuf(blocks[number].tobytes(), "utf-8", "surrogateescape")
            except (tarfile.TarError, ValueError):
                continue
            return offset + int(number) * BLOCK
        offset += max(len(blocks), 1) * BLOCK
    return size
