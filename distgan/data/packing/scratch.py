"""What is compressed as a whole is uncompressed once, into one file beside the shards, and read from there by position."""

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from distgan.errors import InputError
from distgan.files import sync_directory

_CHUNK_BYTES = 2**20
_ALWAYS_BYTES = 2**30  # what anything may grow to
_MAX_EXPANSION = 100  # and beyond that, as a multiple of its compressed size: pictures are far below, bombs at 1,000


class Readable(Protocol):
    """What bytes are read from, a piece at a time."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


def gunzipped(path: Path, scratch: Path) -> Path:
    """The content of a .gz in `scratch`; what an earlier call put there whole is taken as it is.

    Raises:
        InputError: the file is damaged, cut short, or a bomb.
    """
    target = scratch / f"{path.name}.content"
    if not target.exists():
        with open(path, "rb") as file, gzip.open(file) as stream:
            unpack(stream, target, path.stat().st_size, str(path))
    return target


def unpack(stream: Readable, target: Path, compressed_bytes: int, described: str) -> None:
    """Write what `stream` holds to `target`, whole or not at all.

    Raises:
        InputError: the stream is damaged, or longer than anything that compresses to so many bytes would be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.tmp")
    limit_bytes = max(_ALWAYS_BYTES, _MAX_EXPANSION * compressed_bytes)
    num_bytes = 0
    with open(aside, "wb") as file:
        for chunk in chunks(stream, described):
            num_bytes += len(chunk)
            if num_bytes > limit_bytes:
                raise InputError(
                    f"SRC holds {described}, which has {compressed_bytes} bytes and grows to more than {limit_bytes}: no pictures "
                    "compress so well; uncompress it yourself if it is right."
                )
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, target)
    sync_directory(target.parent)


def chunks(stream: Readable, described: str) -> Iterator[bytes]:
    """What `stream` holds, a piece at a time; raises InputError if it is damaged."""
    while True:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"SRC holds {described}, which is damaged or cut short ({error}); fetch or write it again.") from None
        if not chunk:
            return
        yield chunk
