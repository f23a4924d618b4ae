"""Files of object stores through fsspec: its file systems for s3:// and gs://, and memory://."""

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import fsspec

from distgan.data.remote.transfer import NotFoundError, RefusedError, RemoteFile, TransferError, TransientError, shown, without_secrets
from distgan.errors import InputError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "memory": None}  # by scheme: what fsspec needs for it
IDENTITIES = ("ETag", "etag", "LastModified", "updated", "created")  # of s3fs, gcsfs, memory; what comes first is asked first
# botocore's, which are no OSErrors; by name, as botocore comes with an extra.
CONNECTION_ERRORS = frozenset({"HTTPClientError", "ConnectionError", "IncompleteReadError"})


class ObjectBody:
    """The bytes of an object, a request for each read: a `transfer.Body`."""

    def __init__(self, url: str, first: int, stop: int, num_bytes: int | None, stall_seconds: float) -> None:
        self._url, self._position, self._stop, self._stall_seconds = url, first, stop, stall_seconds
        self.first, self.num_bytes = first, num_bytes

    def read(self, limit_bytes: int) -> bytes:
        end = min(self._position + limit_bytes, self._stop)
        if end <= self._position:
            return b""
        filesystem = _filesystem_of(self._url, self._stall_seconds)
        with _failures(self._url):
            content = filesystem.cat_file(self._url, start=self._position, end=end)
        self._position += len(content)
        return content


@contextmanager
def open_body(url: str, first: int, stop: int | None, stall_seconds: float) -> Iterator[ObjectBody]:
    """The bytes from `first` up to `stop` (None: the end, for which the size is asked first).

    Raises:
        TransientError, TransferError: see there.
        InputError: a package is missing.
    """
    if stop is not None:
        yield ObjectBody(url, first, stop, None, stall_seconds)
    else:
        num_bytes = look_up(url, stall_seconds).num_bytes
        assert num_bytes is not None, "object stores know their sizes"
        yield ObjectBody(url, first, num_bytes, num_bytes, stall_seconds)


def look_up(url: str, stall_seconds: float) -> RemoteFile:
    """Size and identity."""
    filesystem = _filesystem_of(url, stall_seconds)
    with _failures(url):
        information = filesystem.info(url)
    if information["type"] != "file":
        raise NotFoundError(f"{shown(url)} does not exist: it is a directory.")
    identities = [str(information[name]) for name in IDENTITIES if information.get(name)]
    return RemoteFile(information["size"], f"{identities[0]}, {information['size']} bytes" if identities else "")


def list_tars(url: str, stall_seconds: float) -> list[str]:
    """The *.tar directly below a directory, in the order of their names; none if nothing is there."""
    filesystem = _filesystem_of(url, stall_seconds)
    try:
        with _failures(url):
            entries = filesystem.ls(url, detail=True)
    except NotFoundError:  # a store knows no empty directories
        return []
    names = sorted(entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file")
    return [f"{url.rstrip('/')}/{name}" for name in names if name.endswith(".tar")]


def _filesystem_of(url: str, stall_seconds: float) -> Any:
    scheme = url.partition("://")[0].lower()
    package = PACKAGES[scheme]
    try:
        return _filesystem(scheme, stall_seconds, os.getpid())
    except ImportError as error:
        raise InputError(
            f"data.url is one of {scheme}://, for which {package} is needed ({error}); pip install 'distgan[{scheme}]'."
        ) from None


@functools.lru_cache(maxsize=4)
def _filesystem(scheme: str, stall_seconds: float, process: int) -> Any:
    """The one of this process. fsspec's own cache keeps one per thread for ever, and with a fork its loop is gone.

    Nothing is looked up in listings of before: an object that has changed is seen. Attempts are counted by `Retries` alone, where the
    library lets us say so: s3fs and botocore together would make 125 of them, each of `stall_seconds`.
    """
    if package := PACKAGES[scheme]:
        importlib.import_module(package)  # fsspec says less about what is missing
    filesystem = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    if scheme == "s3":
        filesystem.retries = 1
        filesystem.connect_timeout = filesystem.read_timeout = stall_seconds
        filesystem.config_kwargs.setdefault("retries", {"mode": "standard", "total_max_attempts": 1})
    elif scheme == "gs":
        filesystem.requests_timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)
    return filesystem


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """Turn what the libraries raise into TransientError or TransferError."""
    try:
        yield
    except Exception as error:  # theirs have no class in common
        reason = without_secrets(f"{type(error).__name__}: {error}")
        status = _status_of(error)
        if isinstance(error, FileNotFoundError) or status == 404:
            raise NotFoundError(f"{shown(url)} does not exist.") from None
        if isinstance(error, PermissionError) or status in (401, 403) or "Credential" in type(error).__name__:
            raise RefusedError(f"{shown(url)} may not be read ({reason}); check the credentials.") from None
        if _is_transient(error, status):
            raise TransientError(reason) from None
        raise TransferError(f"{shown(url)} cannot be read: {reason}.") from None


def _status_of(error: Exception) -> int | None:
    """The HTTP status behind an error of gcsfs, or of s3fs, which has botocore's error as its cause."""
    if str(error).startswith("Forbidden: "):  # gcsfs: an OSError without the number
        return 403
    response = getattr(error.__cause__, "response", None)
    of_s3 = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    status = str(of_s3 or getattr(error, "code", ""))
    return int(status) if status.isdecimal() else None


def _is_transient(error: Exception, status: int | None) -> bool:
    if isinstance(error, TimeoutError):  # S3 answers a body that came too slowly with 400
        return True
    if status is not None:
        return status in (408, 429) or status >= 500
    return isinstance(error, (OSError, aiohttp.ClientError)) or not CONNECTION_ERRORS.isdisjoint(
        cls.__name__ for cls in type(error).__mro__
    )
