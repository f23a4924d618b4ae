"""An image's bytes -> pixels: what is stored is looked at once, when it is indexed, and decoded by the quickest library from then on.

Pillow is the judge. simplejpeg (libjpeg-turbo) and pyspng (libspng) are 1.5 and 2 to 3 times as quick, and take its place for those images
of which they gave the very same pixels at indexing. Raw images are NumPy arrays (.npy), which need no decoder.

What is in a shard is anybody's. Pillow goes by the content, not by the name, and knows formats that it hands to another program
(EPS: Ghostscript): it is asked for those of EXTENSIONS only. What it raises on hostile bytes is of any kind (a broken EXIF alone:
TypeError, SyntaxError, struct.error), so all of it, want of memory aside, means that an image cannot be read.
"""

import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyspng
import simplejpeg
from PIL import ExifTags, Image, ImageOps

from distgan.data.npy import read_npy_header

MAX_PIXELS = 2**26  # of one image: 192 MiB in memory; more is taken for a decompression bomb before anything is decoded
RAW_EXTENSION = "npy"
EXTENSIONS = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "ppm", "pgm"})
GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")
_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # of EXTENSIONS, by Pillow's names
_TURNS: dict[object, Image.Transpose] = {  # by EXIF's orientation: what turns the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """The bytes are no image that can be read; the message completes a sentence: 'which is ...'."""


class Decoder(IntEnum):
    """Who decodes an image; the numbers stand in the indexes."""

    PILLOW = 0
    SPNG = 1
    JPEG_TURBO = 2
    RAW = 3


@dataclass(frozen=True)
class Facts:
    """What there is to know of a stored image.

    Attributes:
        start: where its pixels begin in the bytes that were looked at: past the header of an array, else 0.
        channels: 1 or 3.
    """

    decoder: Decoder
    start: int
    width: int
    height: int
    channels: int


def inspect(payload: bytes, extension: str) -> Facts:
    """Decode an image once and tell what it is.

    Raises:
        UnreadableImageError: it is damaged, too large, or no image at all.
    """
    if extension == RAW_EXTENSION:
        return _inspect_array(payload)
    with _unseen(payload) as image:
        pixels = _with_pillow(image, image.mode not in GREY_MODES)  # half an image has a whole header
        quick = _quick_decoder(image, payload)
    height, width, channels = pixels.shape
    try:
        equal = quick is not Decoder.PILLOW and np.array_equal(_QUICK[quick](payload, channels), pixels)
    except (ValueError, RuntimeError):  # more particular than Pillow
        equal = False
    return Facts(quick if equal else Decoder.PILLOW, 0, width, height, channels)


def decode_into(out: np.ndarray, payload: bytes, decoder: Decoder, width: int, height: int, channels: int) -> None:
    """Decode an image that `inspect` has seen into `out` [side, side, C] uint8; C = 1 or 3.

    One of another size is scaled to fill (Lanczos, antialiased) and centre-cropped; grey becomes RGB by repetition.

    Raises:
        UnreadableImageError: the bytes cannot be decoded.
    """
    if decoder is Decoder.PILLOW:
        out[...] = decode(payload, len(out), out.shape[2])
        return
    try:
        if decoder is Decoder.JPEG_TURBO and (height, width, channels) == out.shape:
            _by_jpeg_turbo(payload, channels, out)
            return
        pixels = _stored(payload, decoder, width, height, channels)
        if pixels.shape[:2] != out.shape[:2] or channels > out.shape[2]:
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            pixels = _fitted(image, len(out), out.shape[2])
        out[...] = pixels
    except (ValueError, RuntimeError) as error:
        raise UnreadableImageError(str(error)) from None


def decode_unseen_into(out: np.ndarray, payload: bytes, extension: str) -> None:
    """Decode an image that `inspect` has not seen into `out`, as `decode_into` does.

    Raises:
        UnreadableImageError: as `inspect`.
    """
    if extension == RAW_EXTENSION:
        facts = _inspect_array(payload)
        decode_into(out, payload[facts.start :], facts.decoder, facts.width, facts.height, facts.channels)
        return
    with _unseen(payload) as image:
        out[...] = _fitted(upright(image), len(out), out.shape[2])


def decode_whole(payload: bytes, decoder: Decoder, width: int, height: int, channels: int) -> np.ndarray:
    """An image that `inspect` has seen -> [height, width, channels] uint8, neither scaled nor cropped.

    Raises:
        UnreadableImageError: the bytes cannot be decoded, or give another size.
    """
    try:
        if decoder is Decoder.PILLOW:
            with _opened(payload) as image:
                pixels = _with_pillow(image, channels == 3)
        else:
            pixels = _stored(payload, decoder, width, height, channels)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError(str(error)) from None
    if pixels.shape != (height, width, channels):
        raise UnreadableImageError(f"it is of {pixels.shape[1]}x{pixels.shape[0]} pixels, but the index says {width}x{height}")
    return pixels


def decode(payload: bytes, side: int, channels: int) -> np.ndarray:
    """An image of any format -> [side, side, channels] uint8, by Pillow; see `decode_into`.

    Raises:
        UnreadableImageError: the bytes cannot be decoded.
    """
    try:
        with _opened(payload) as image:
            return _fitted(upright(image), side, channels)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError(str(error)) from None


def _check_chunks(png: bytes) -> None:
    """Hold every chunk of a PNG against its CRC (RFC 2083, 3.4), up to the last one.

    Decoders do not: they stop when they have enough pixels, and never come to the checksums behind. Of one digit's flipped bits
    every 22nd gives other pixels by Pillow and every second by libspng, without a word.
    """
    content = memoryview(png)
    start, kind = len(_PNG), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")  # of length, kind and data
        kind = bytes(content[start + 4 : start + 8])
        if len(png) < end + 4 or zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise UnreadableImageError("which is not a readable image; pack it again")
        start = end + 4


@contextmanager
def _unseen(payload: bytes) -> Iterator[Image.Image]:
    """An image that nobody has looked at; whatever Pillow raises within this is an UnreadableImageError."""
    if payload.startswith(_PNG):
        _check_chunks(payload)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is below the one of which it warns
            opened = _opened(payload)
        with opened as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > np.iinfo(np.uint16).max:
                raise UnreadableImageError(f"which is of {image.width}x{image.height} pixels; scale it down")
            yield image
    except (UnreadableImageError, MemoryError):
        raise
    except Image.DecompressionBombError:  # far beyond MAX_PIXELS: Pillow does not even say how large
        raise UnreadableImageError("which is of more pixels than anybody decodes; scale it down") from None
    except Exception:
        raise UnreadableImageError("which is not a readable image; pack it again") from None


def _opened(payload: bytes) -> Image.Image:
    return Image.open(io.BytesIO(payload), formats=_FORMATS)


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, with 8 bits a channel."""
    # Not by ImageOps.exif_transpose: it writes the EXIF of the turned image, at which it fails for some cameras' (TypeError, struct.error).
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip instead of scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image


def _fitted(image: Image.Image, side: int, channels: int) -> np.ndarray:
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(side, side, channels)


def _with_pillow(image: Image.Image, in_colour: bool) -> np.ndarray:
    converted = upright(image).convert("RGB" if in_colour else "L")
    return np.asarray(converted).reshape(converted.height, converted.width, -1)


def _quick_decoder(image: Image.Image, payload: bytes) -> Decoder:
    """Who might decode this kind of image as Pillow does; a kind whose meaning depends on more than its pixels stays with Pillow."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return Decoder.PILLOW
    if image.format == "JPEG":
        return Decoder.JPEG_TURBO
    bit_depth = payload[24:25]  # PNG's header (RFC 2083, 4.1.1)
    return Decoder.SPNG if image.format == "PNG" and bit_depth == b"\x08" else Decoder.PILLOW


def _stored(payload: bytes, decoder: Decoder, width: int, height: int, channels: int) -> np.ndarray:
    """The pixels [H, W, C] as another decoder than Pillow gives them; raises ValueError or RuntimeError where it cannot."""
    if decoder is Decoder.RAW:
        return np.frombuffer(payload, np.uint8).reshape(height, width, channels)
    return _QUICK[decoder](payload, channels)


def _by_spng(payload: bytes, channels: int) -> np.ndarray:
    pixels = pyspng.load(payload)
    return pixels.reshape(*pixels.shape[:2], channels)


def _by_jpeg_turbo(payload: bytes, channels: int, out: np.ndarray | None = None) -> np.ndarray:
    # Not strict: Pillow lets pass what libjpeg only warns of, too.
    return simplejpeg.decode_jpeg(payload, "GRAY" if channels == 1 else "RGB", strict=False, buffer=out)


_QUICK: dict[Decoder, Callable[[bytes, int], np.ndarray]] = {Decoder.SPNG: _by_spng, Decoder.JPEG_TURBO: _by_jpeg_turbo}


def _inspect_array(payload: bytes) -> Facts:
    """A .npy file (NumPy's NEP 1); an array of objects is a pickle, and is not touched."""
    file = io.BytesIO(payload)
    try:
        shape, is_fortran, dtype = read_npy_header(file)
    except Exception:
        raise UnreadableImageError("which is not a readable NumPy array; pack it again") from None
    is_image = dtype == np.uint8 and len(shape) in (2, 3) and shape[2:] in ((), (1,), (3,)) and not is_fortran
    if not is_image or min(shape) < 1 or max(shape) > np.iinfo(np.uint16).max:
        raise UnreadableImageError(
            f"which is an array of {dtype.name} {list(shape)}, but a raw image is one of uint8 [height, width] or [height, width, 3], "
            "row by row; pack it again"
        )
    if shape[0] * shape[1] > MAX_PIXELS:
        raise UnreadableImageError(f"which is of {shape[1]}x{shape[0]} pixels; scale it down")
    if len(payload) - file.tell() != np.prod(shape):
        raise UnreadableImageError("which does not hold as many bytes as its header says; pack it again")
    return Facts(Decoder.RAW, file.tell(), shape[1], shape[0], shape[2] if len(shape) == 3 else 1)
