"""Files of web servers: what is asked of them, what their answers mean, and which failures are worth another attempt.

Requests go through the session of fsspec's HTTP file system, its read functions do not: `cat_file` takes the whole file for a range
where a server ignores Range, and `info` calls every failure a missing file.
"""

import functools
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import aiohttp
from fsspec.asyn import get_loop, sync
from fsspec.implementations.http import HTTPFileSystem

from distgan.data.remote.transfer import (
    NotFoundError,
    RefusedError,
    RemoteFile,
    TransferError,
    TransientError,
    shown,
    without_secrets,
)

SCHEMES = ("http", "https")
BUFFER_BYTES = 1 << 20  # of one connection; aiohttp holds up to twice as much
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
TRANSIENT_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class WebBody:
    """The body of an answer: a `transfer.Body`."""

    def __init__(self, url: str, response: aiohttp.ClientResponse, asked_first: int, stall_seconds: float) -> None:
        self._url, self._response, self._stall_seconds = url, response, stall_seconds
        self.first, self.num_bytes = _extent(url, response, asked_first)
        self.is_range = response.status == HTTPStatus.PARTIAL_CONTENT

    @property
    def identity(self) -> str:
        """What changes with the content; "" if the server gives nothing of the kind."""
        headers = self._response.headers
        if "ETag" in headers:
            return headers["ETag"]
        return f"{headers['Last-Modified']}, {self.num_bytes} bytes" if "Last-Modified" in headers else ""

    def read(self, limit_bytes: int) -> bytes:
        if self._response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""  # the file ends before the range; its body is a page about that
        with _failures(self._url, self._stall_seconds):
            return _run(self._response.content.read, min(limit_bytes, BUFFER_BYTES))  # aiohttp's buffer grows with what is asked for


@contextmanager
def open_body(url: str, first: int, stop: int | None, stall_seconds: float, fresh: bool = False) -> Iterator[WebBody]:
    """Ask for the bytes from `first` up to `stop` (None: the end). A server may send the whole file instead: look at `.first`.

    Args:
        fresh: ask proxies on the way for the server's own copy instead of theirs.

    Raises:
        TransientError, TransferError: see there.
    """
    # Not compressed: positions and sizes are those of the file.
    headers = {"Accept-Encoding": "identity"}
    if first > 0 or stop is not None:
        headers["Range"] = f"bytes={first}-{'' if stop is None else stop - 1}"
    if fresh:
        headers["Cache-Control"] = "no-cache"
    filesystem = _filesystem(os.getpid())
    with _failures(url, stall_seconds):
        response = _run(_get, filesystem, url, headers, stall_seconds)
    try:
        yield WebBody(url, response, first, stall_seconds)
    finally:
        # Drops the connection, unless the body was read to its end: then it has gone back to the pool.
        get_loop().call_soon_threadsafe(response.close)


def look_up(url: str, stall_seconds: float) -> RemoteFile:
    """Size and identity. Not by HEAD: a presigned URL is signed for GET alone."""
    with open_body(url, 0, 1, stall_seconds) as body:
        if body.is_range:
            body.read(1)  # to its end: the connection can be used again
        return RemoteFile(body.num_bytes, body.identity)


def tar_links(page: str, directory: str) -> list[str]:
    """The *.tar directly below `directory` (which ends with a slash) to which its index page links, in the order of their names."""
    links = _Links()
    links.feed(page)
    base = urlsplit(directory)
    names = set()
    for link in links.found:
        target = urlsplit(urljoin(directory, link))
        folder, _, name = target.path.rpartition("/")
        same_server = (target.hostname, target.port) == (base.hostname, base.port)
        if same_server and unquote(folder) + "/" == unquote(base.path) and name.endswith(".tar"):
            names.add(name)
    return [urlunsplit((base.scheme, base.netloc, base.path + name, "", "")) for name in sorted(names)]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


@functools.lru_cache(maxsize=1)
def _filesystem(process: int) -> HTTPFileSystem:
    """The one of this process. fsspec's own cache keeps one per thread for ever, and with a fork its loop is gone."""
    client = {"read_bufsize": BUFFER_BYTES, "trust_env": True}  # the environment's proxies and ~/.netrc
    return HTTPFileSystem(client_kwargs=client, encoded=True, skip_instance_cache=True)


def _run(function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
    """Run a coroutine in fsspec's thread, from any other."""
    return sync(get_loop(), function, *arguments)


async def _get(filesystem: HTTPFileSystem, url: str, headers: dict[str, str], stall_seconds: float) -> aiohttp.ClientResponse:
    session = await filesystem.set_session()
    # No total time, which is five minutes otherwise: a healthy download may take hours.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)
    return await session.get(filesystem.encode_url(_escaped(url)), headers=headers, timeout=timeout)


def _escaped(url: str) -> str:
    """Spaces and the like escaped, but what is escaped left as it is: another spelling breaks some signatures."""
    parts = urlsplit(url)
    safe = "%/:=&?~+!$,;'@()*[]"
    return urlunsplit((parts.scheme, parts.netloc, quote(parts.path, safe), quote(parts.query, safe), ""))


def _extent(url: str, response: aiohttp.ClientResponse, asked_first: int) -> tuple[int, int | None]:
    """(position of the body's first byte, size of the whole file) of an answer, or the failure that it stands for."""
    status = response.status
    reason = f"the server answers {status} {response.reason or ''}".rstrip()
    extent = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = int(extent[3]) if extent and extent[3] != "*" else None
    if status == HTTPStatus.OK:
        _refuse_compressed(url, response)
        return 0, response.content_length
    if status == HTTPStatus.PARTIAL_CONTENT:
        _refuse_compressed(url, response)
        if not extent or extent[1] is None or int(extent[1]) != asked_first:
            raise TransferError(f"{shown(url)} cannot be read: the server sends other bytes than it is asked for (Content-Range).")
        return asked_first, total
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return asked_first, total
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise NotFoundError(f"{shown(url)} does not exist: {reason}.")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        raise RefusedError(f"{shown(url)} may not be read: {reason}; check the credentials, or whether a signature has expired.")
    if status in TRANSIENT_STATUSES or status >= 500:
        raise TransientError(reason, _retry_after_seconds(response))
    raise TransferError(f"{shown(url)} cannot be read: {reason}.")


def _refuse_compressed(url: str, response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise TransferError(f"{shown(url)} cannot be read: the server sends it compressed though asked not to, so no position is right.")


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0  # a date, the other form, is rare


@contextmanager
def _failures(url: str, stall_seconds: float) -> Iterator[None]:
    """Turn what aiohttp raises into TransientError or TransferError; its own messages hold the URL with all secrets."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise TransferError(f"{shown(url)} cannot be read: the server's certificate is not valid here.") from None
    except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
        raise TransferError(f"{shown(url)} cannot be read: {type(error).__name__}, a bad URL or a redirection without end.") from None
    except TimeoutError:
        raise TransientError(f"nothing came for {stall_seconds:g} s") from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, socket.gaierror) and error.os_error.errno == socket.EAI_NONAME:
            raise TransferError(f"{shown(url)} cannot be read: there is no host {error.host}.") from None
        raise TransientError(f"no connection to {error.host}:{error.port} ({error.os_error.strerror})") from None
    except aiohttp.ClientPayloadError:
        raise TransientError("the connection ended in the middle of the file") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TransientError(without_secrets(f"the connection broke ({type(error).__name__}: {error})")) from None
