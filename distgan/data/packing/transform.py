"""Encoded bytes or pixels -> what a shard holds: decoded, turned upright, fitted to a square, encoded again."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from distgan.data import decoding
from distgan.data.decoding import EXTENSIONS as READ_EXTENSIONS
from distgan.data.decoding import GREY_MODES, MAX_PIXELS, RAW_EXTENSION, UnreadableImageError
from distgan.data.packing.places import UnreadableError
from distgan.png import encode_png

KEPT_EXTENSIONS = READ_EXTENSIONS | {RAW_EXTENSION}  # what training reads
EXTENSIONS = KEPT_EXTENSIONS | {"gif", "tif", "tiff"}  # what is taken for an image
# What is opened at all: some of Pillow's other formats start programs, or are no images.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF", "TIFF")
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
MAX_RESOLUTION = math.isqrt(MAX_PIXELS)
_MAX_SIDE = 2**16 - 1  # of the index


@dataclass(frozen=True)
class Recipe:
    """What is done to every image.

    `keep` passes on the bytes of a file that training can read; what is not kept is encoded as `encoding`, or is
    left out where that is None.
    """

    keep: bool
    encoding: str | None  # png, jpeg, webp, raw
    resolution: int | None = None
    crop: str = "center"  # pad, none
    filter: str = "lanczos"
    channels: int | None = None
    quality: int = 95


@dataclass(frozen=True)
class Encoded:
    """An image as it goes into the shard."""

    extension: str
    content: bytes
    width: int
    height: int
    channels: int


def encode_file(content: bytes, extension: str, recipe: Recipe) -> Encoded:
    """An image file (or the uint8 array of an .npy) -> what the shard holds.

    Raises:
        UnreadableError: it is damaged, too large, or not of the size or kind that the recipe asks for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata and palettes; what matters raises
        if recipe.keep:
            try:
                return _kept(content, extension)
            except UnreadableError:
                if recipe.encoding is None:
                    raise
        if extension == RAW_EXTENSION:
            return encode_pixels(_pixels_of_npy(content), recipe)
        with _decoded(content) as image:
            with _reasons():
                upright = decoding.upright(image)
            return _encode(upright, 1 if image.mode in GREY_MODES else 3, recipe)


def encode_pixels(pixels: np.ndarray, recipe: Recipe) -> Encoded:
    """[H, W] or [H, W, 3] uint8 -> what the shard holds; raises UnreadableError as `encode_file`."""
    return _encode(_array_image(pixels), 1 if pixels.ndim == 2 else 3, recipe)


def _kept(content: bytes, extension: str) -> Encoded:
    if extension not in KEPT_EXTENSIONS:
        raise UnreadableError("is of a format that training does not read; another --encoding than keep converts it")
    facts = _inspected(content, extension)
    return Encoded(extension, content, facts.width, facts.height, facts.channels)


def _inspected(content: bytes, extension: str) -> decoding.Facts:
    """As the shard's index will see it."""
    try:
        return decoding.inspect(content, extension)
    except UnreadableImageError as error:
        raise UnreadableError(str(error).removeprefix("which ").partition(";")[0]) from None


def _encode(image: Image.Image, channels: int, recipe: Recipe) -> Encoded:
    assert recipe.encoding is not None, "what cannot be kept is left out"
    grey = (recipe.channels or channels) == 1
    pixels = np.asarray(_fit(image.convert("L" if grey else "RGB"), recipe))  # [H, W] or [H, W, 3], without any metadata
    height, width = pixels.shape[:2]
    extension = {"jpeg": "jpg", "raw": RAW_EXTENSION}.get(recipe.encoding, recipe.encoding)
    channels = 3 if pixels.ndim == 3 or recipe.encoding == "webp" else 1  # WebP knows no grey
    return Encoded(extension, _encode_as(pixels, recipe), width, height, channels)


def _encode_as(pixels: np.ndarray, recipe: Recipe) -> bytes:
    if recipe.encoding == "png":
        return encode_png(pixels)
    content = io.BytesIO()
    if recipe.encoding == "raw":
        np.lib.format.write_array(content, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    else:
        with _reasons(f"cannot be a {recipe.encoding}"):  # JPEG ends at 65,500 pixels a side, WebP at 16,383
            Image.fromarray(pixels).save(content, recipe.encoding, quality=recipe.quality)
    return content.getvalue()


def _fit(image: Image.Image, recipe: Recipe) -> Image.Image:
    _check_sides(image)
    size = (recipe.resolution, recipe.resolution) if recipe.resolution else image.size
    if image.size == size:
        return image
    if recipe.crop == "none":
        raise UnreadableError(f"is {image.width}x{image.height} pixels, not {size[0]}x{size[1]}; --crop center or pad makes it so")
    with _reasons("cannot be scaled"):  # a line of pixels, padded, has no width in some versions of Pillow
        if recipe.crop == "pad":
            return ImageOps.pad(image, size, method=FILTERS[recipe.filter], color=0)
        return ImageOps.fit(image, size, method=FILTERS[recipe.filter])


def _check_sides(image: Image.Image) -> None:
    if max(image.size) > _MAX_SIDE:
        raise UnreadableError(f"is {image.width}x{image.height} pixels; a side may have {_MAX_SIDE} at most")


def _array_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))


@contextmanager
def _decoded(content: bytes) -> Iterator[Image.Image]:
    """The first frame of an image file, loaded."""
    with _reasons():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        with _reasons():
            image.load()
        yield image


@contextmanager
def _reasons(what: str = "is not a readable image") -> Iterator[None]:
    """What Pillow and numpy raise on hostile bytes is documented nowhere and is nearly anything; all of it is a reason."""
    try:
        yield
    except Exception as error:
        text = str(error).partition("<_io.BytesIO")[0].strip() or type(error).__name__
        raise UnreadableError(f"{what} ({text[:200]})") from None


def _pixels_of_npy(content: bytes) -> np.ndarray:
    facts = _inspected(content, RAW_EXTENSION)
    pixels = np.frombuffer(content, np.uint8, offset=facts.start)
    return pixels.reshape((facts.height, facts.width, 3)[: 3 if facts.channels == 3 else 2])
