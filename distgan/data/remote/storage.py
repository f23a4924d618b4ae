"""Where the bytes of a URL lie: http(s)://, s3:// and gs:// through fsspec, with retries.

Everything here may be called from several threads at once. What fails for good is a `TransferError` whose sentence names the URL
without its secrets; what may be gone at the next attempt is tried again as `Patience` says.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from distgan.data.remote import objects, web
from distgan.data.remote.transfer import (
    Body,
    ChangedShardError,
    NotFoundError,
    Patience,
    RangesUnsupportedError,
    RefusedError,
    RemoteFile,
    Retries,
    TransferError,
    TransientError,
    shown,
)
from distgan.errors import InputError

CHUNK_BYTES = 16 << 20  # of one read, and so of one request to an object store
INDEX_PAGE_BYTES = 16 << 20  # some 100,000 links
PATIENCE = Patience()

Result = TypeVar("Result")


def is_remote(url: str) -> bool:
    """Whether `url` names something elsewhere rather than a path.

    Raises:
        InputError: by a scheme that is not read, or it is not a URL.
    """
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if not rest.startswith("//") and scheme != "pipe":
        return False
    if scheme not in (*web.SCHEMES, *objects.PACKAGES):
        raise InputError(
            f"data.url begins with '{scheme}:', which is not read; set it to a path, or to a URL of http://, https://, s3:// or gs://."
        )
    try:
        parts = urlsplit(url)
        is_url = bool(parts.netloc) and parts.port != 0
    except ValueError:  # a port that is not a number, a bracket that is not closed
        is_url = False
    if not is_url and scheme != "memory":
        raise InputError(f"data.url is {url.partition('?')[0].rpartition('@')[2]!r}, which is not a URL; write {scheme}://host/path.")
    return True


def look_up(url: str, patience: Patience = PATIENCE) -> RemoteFile:
    """Size, and something that changes when the content does: ETag, or time of change and size; "" where the server gives neither."""
    backend = web if _is_web(url) else objects
    return _persistently(url, patience, lambda: backend.look_up(url, patience.stall_seconds))


def size_of(url: str, patience: Patience = PATIENCE) -> int:
    """Size in bytes.

    Raises:
        TransferError: it cannot be read, or the server does not say.
    """
    num_bytes = look_up(url, patience).num_bytes
    if num_bytes is None:
        raise TransferError(f"{shown(url)} cannot be read: the server does not say how large it is.")
    return num_bytes


def identity(url: str, patience: Patience = PATIENCE) -> str:
    """Something cheap that changes when the content does; "" where the server gives none."""
    return look_up(url, patience).identity


def exists(url: str, patience: Patience = PATIENCE) -> bool:
    """Whether there is a file (not a directory of an object store)."""
    try:
        look_up(url, patience)
    except NotFoundError:
        return False
    return True


def list_tars(url: str, patience: Patience = PATIENCE) -> list[str]:
    """The *.tar directly below a directory, in the order of their names; object stores know no empty directories: none.

    Raises:
        InputError: a web server has no page there that links to any.
    """
    if not _is_web(url):
        return _persistently(url, patience, lambda: objects.list_tars(url, patience.stall_seconds))
    directory = url.partition("?")[0].partition("#")[0].rstrip("/") + "/"
    try:
        links = web.tar_links(read_small(directory, INDEX_PAGE_BYTES, patience).decode(errors="replace"), directory)
        reason = "whose page links to no *.tar"
    except (NotFoundError, RefusedError):
        links, reason = [], "which the server does not list"
    if not links:
        raise InputError(
            f"data.url is {shown(url)!r}, {reason}; write a pattern that names the shards, such as {shown(directory)}x-{{0000..0127}}.tar."
        )
    return links


def read_small(url: str, limit_bytes: int, patience: Patience = PATIENCE) -> bytes:
    """A whole small file.

    Raises:
        TransferError: it cannot be read, or has more than `limit_bytes` bytes (of which no more are held).
    """

    def attempt() -> bytes:
        with _open(url, 0, None, patience) as body:
            if body.num_bytes is not None and body.num_bytes > limit_bytes:
                raise too_large
            content = _read_up_to(body, limit_bytes + 1)
        if len(content) > limit_bytes:
            raise too_large
        return content

    too_large = TransferError(f"{shown(url)} is larger than {limit_bytes} bytes, which cannot be what it should be.")
    return _persistently(url, patience, attempt)


def read_range(url: str, offset: int, length: int, patience: Patience = PATIENCE, expected_bytes: int | None = None) -> bytes:
    """Exactly `length` bytes from `offset` on.

    Raises:
        RangesUnsupportedError: the server sends the whole file for a range, which is then not read.
        ChangedShardError: the file has not `expected_bytes` bytes.
        TransferError: it cannot be read, or ends before.
    """
    if length == 0:
        return b""

    def attempt() -> bytes:
        with _open(url, offset, offset + length, patience) as body:
            is_whole_file = body.first == 0 and body.num_bytes == length
            if body.first != offset and not is_whole_file:
                raise unsupported
            if expected_bytes is not None:
                _check_size(url, body, expected_bytes)
            content = _read_up_to(body, length)
            if len(content) < length and body.num_bytes is not None and body.num_bytes < offset + length:
                raise TransferError(
                    f"{shown(url)} has {body.num_bytes} bytes, but bytes {offset} to {offset + length - 1} are wanted: it has changed."
                )
        if len(content) < length:
            raise TransientError(f"{len(content)} bytes came instead of {length}")
        return content

    unsupported = RangesUnsupportedError(f"{shown(url)} can only be read as a whole: the server ignores Range.")
    return _persistently(url, patience, attempt)


def download(
    url: str,
    file: BinaryIO,
    expected_bytes: int,
    on_bytes: Callable[[bytes], object] | None = None,
    patience: Patience = PATIENCE,
    fresh: bool = False,
) -> None:
    """Write the whole file to `file`, from its position on; a connection that breaks or stalls goes on after the last byte that came.

    Where the server knows no ranges, it sends the file again, and what has been written is passed over.

    Args:
        on_bytes: called with each piece, in order and once, after it was written.
        fresh: ask proxies on the way for the server's own copy.

    Raises:
        TransferError: it cannot be read.
        ChangedShardError: it has not `expected_bytes` bytes.
        OSError: `file` cannot be written.
    """
    retries = Retries(url, patience)
    written_bytes = 0
    while written_bytes < expected_bytes:
        try:
            with _open(url, written_bytes, None, patience, fresh) as body:
                _check_size(url, body, expected_bytes)
                _pass_over(body, written_bytes - body.first)
                while chunk := body.read(CHUNK_BYTES):
                    if written_bytes + len(chunk) > expected_bytes:
                        raise ChangedShardError(f"{shown(url)} has more than {expected_bytes} bytes: it has changed.")
                    _write(file, chunk)
                    written_bytes += len(chunk)
                    retries.progress()
                    if on_bytes is not None:
                        on_bytes(chunk)
            if written_bytes < expected_bytes:
                raise TransientError(f"the file ended after {written_bytes} of {expected_bytes} bytes")
        except TransientError as failure:
            retries.wait(failure)


def _persistently(url: str, patience: Patience, attempt: Callable[[], Result]) -> Result:
    retries = Retries(url, patience)
    while True:
        try:
            return attempt()
        except TransientError as failure:
            retries.wait(failure)


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme.lower() in web.SCHEMES


def _open(url: str, first: int, stop: int | None, patience: Patience, fresh: bool = False) -> AbstractContextManager[Body]:
    if _is_web(url):
        return web.open_body(url, first, stop, patience.stall_seconds, fresh)
    return objects.open_body(url, first, stop, patience.stall_seconds)


def _check_size(url: str, body: Body, expected_bytes: int) -> None:
    if body.num_bytes is not None and body.num_bytes != expected_bytes:
        raise ChangedShardError(f"{shown(url)} has {body.num_bytes} bytes instead of {expected_bytes}: it has changed.")


def _read_up_to(body: Body, limit_bytes: int) -> bytes:
    """The first `limit_bytes` bytes of a body, or all of them if it has fewer."""
    content = bytearray()
    while len(content) < limit_bytes and (chunk := body.read(limit_bytes - len(content))):
        content += chunk
    return bytes(content)


def _pass_over(body: Body, num_bytes: int) -> None:
    while num_bytes > 0:
        chunk = body.read(min(num_bytes, CHUNK_BYTES))
        if not chunk:
            raise TransientError(f"the file ended {num_bytes} bytes before what had come of it before")
        num_bytes -= len(chunk)


def _write(file: BinaryIO, chunk: bytes) -> None:
    """All of `chunk`: an unbuffered file may take less at once."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
