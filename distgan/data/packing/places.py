"""Reading the content of a place, in a worker or in the parent; what is read is never more than was asked for."""

import zipfile
import zlib

import numpy as np

from distgan.data.packing.items import MAX_CONTENT_BYTES, FileRange, PixelRange, Place, ZipMember

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30


class UnreadableError(Exception):
    """An image that cannot be packed; the text is the reason that people are given."""


def read_content(place: FileRange | ZipMember) -> bytes:
    """The bytes of an image or label file.

    Raises:
        UnreadableError: it is too large, damaged, or not what it was when the source was opened.
    """
    if max(place.bytes, place.compressed_bytes if isinstance(place, ZipMember) else 0) > MAX_CONTENT_BYTES:
        raise UnreadableError(f"is larger than {MAX_CONTENT_BYTES >> 20} MiB")
    if isinstance(place, ZipMember):
        return _read_member(place)
    return _read_range(place.path, place.offset, place.bytes)


def read_pixels(place: PixelRange) -> np.ndarray:
    """[H, W] or [H, W, 3] uint8; raises UnreadableError as `read_content`."""
    pixels = np.frombuffer(_read_range(place.path, place.offset, place.bytes), np.uint8)
    if place.planar:
        return pixels.reshape(3, *place.shape[:2]).transpose(1, 2, 0)
    return pixels.reshape(place.shape)


def zip_data_offset(place: ZipMember) -> int:
    """Where a member's bytes begin: the lengths of name and extra field in the local header (APPNOTE 4.3.7) are its own."""
    header = _read_range(place.path, place.header_offset, _LOCAL_HEADER_BYTES)
    if not header.startswith(_LOCAL_HEADER):
        raise UnreadableError("is damaged in its zip (no header where it should begin)")
    name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return place.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes


def content_bytes(place: Place) -> int:
    """How much there is to read, in bytes."""
    return place.compressed_bytes if isinstance(place, ZipMember) else place.bytes


def _read_member(place: ZipMember) -> bytes:
    content = _read_range(place.path, zip_data_offset(place), place.compressed_bytes)
    if place.method == zipfile.ZIP_DEFLATED:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = decompressor.decompress(content, place.bytes + 1)  # a bomb ends here
        except zlib.error as error:
            raise UnreadableError(f"is damaged in its zip ({error})") from None
    if len(content) != place.bytes or zlib.crc32(content) != place.crc32:
        raise UnreadableError("is damaged in its zip (its length or checksum is another)")
    return content


def _read_range(path: str, offset: int, num_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(num_bytes)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    if len(content) != num_bytes:
        raise UnreadableError("is shorter than it was when packing began")
    return content
