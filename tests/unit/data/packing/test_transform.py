"""One image: decoded, fitted and encoded as training would have done it, or a reason why not."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from distgan.data import decoding
from distgan.data.decoding import MAX_PIXELS
from distgan.data.packing.places import UnreadableError
from distgan.data.packing.transform import MAX_RESOLUTION, Encoded, Recipe, encode_file, encode_pixels
from tests.shards import decode, encode, noise

PNG = Recipe(keep=False, encoding="png")
KEEP = Recipe(keep=True, encoding=None)


def square(side: int, channels: int | None = None, **settings: str) -> Recipe:
    return Recipe(keep=False, encoding="png", resolution=side, channels=channels, **settings)  # pyright: ignore[reportArgumentType]


def pixels(encoded: Encoded) -> np.ndarray:
    return np.load(io.BytesIO(encoded.content), allow_pickle=False) if encoded.extension == "npy" else decode(encoded.content)


def reason(content: bytes, recipe: Recipe = PNG, extension: str = "png") -> str:
    with pytest.raises(UnreadableError) as caught:
        encode_file(content, extension, recipe)
    return str(caught.value)


def npy(array: np.ndarray, **settings: object) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **settings)  # pyright: ignore[reportArgumentType]
    return content.getvalue()


def images_of_all_modes() -> dict[str, Image.Image]:
    colour = Image.fromarray(noise(0, 21, 34, 3))
    sixteen = Image.fromarray((noise(1, 21, 34).astype(np.uint16) << 8) + noise(2, 21, 34))
    alpha = Image.merge("RGBA", [*colour.split(), Image.fromarray(noise(3, 21, 34))])
    grey = colour.convert("L")
    modes = {"RGB": colour, "L": grey, "RGBA": alpha, "LA": alpha.convert("LA"), "1": grey.convert("1"), "I;16": sixteen}
    return modes | {"P": colour.convert("P"), "P with transparency": alpha.quantize()}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # training's
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", images_of_all_modes())
def test_a_packed_image_is_what_training_would_have_read(mode: str, channels: int) -> None:
    """Depths, palettes, alpha, scaling and cropping: one rule, applied now instead of at every read."""
    content = encode(images_of_all_modes()[mode])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # packing tells people what matters, and nothing else
        packed = encode_file(content, "png", square(16, channels))
    assert np.array_equal(decoding.decode(packed.content, 16, channels), decoding.decode(content, 16, channels))
    assert (packed.extension, packed.width, packed.height, packed.channels) == ("png", 16, 16, channels)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 3), ("LA", 1), ("1", 1), ("I;16", 1), ("P", 3)])
def test_channels_stay_as_they_are_found(mode: str, channels: int) -> None:
    assert encode_file(encode(images_of_all_modes()[mode]), "png", PNG).channels == channels


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(pixels(encode_file(encode(Image.fromarray(ramp)), "png", PNG)), (ramp >> 8).astype(np.uint8))


def test_the_centre_is_kept() -> None:
    image = np.zeros((8, 16), np.uint8)
    image[:, 4:12] = 200
    assert (pixels(encode_file(encode(image), "png", square(8))) == 200).all()


def test_padding_is_black_and_nothing_is_cut() -> None:
    wide = np.full((8, 16, 3), 200, np.uint8)
    padded = pixels(encode_file(encode(wide), "png", square(8, crop="pad")))
    assert (padded[2:6] == 200).all()
    assert not padded[:2].any()
    assert not padded[6:].any()
    grey = pixels(encode_file(encode(wide[:, :, 0]), "png", square(32, crop="pad")))
    assert (grey[8:24] == 200).all()
    assert not grey[:8].any()


def test_without_cropping_another_size_is_a_reason() -> None:
    assert "is 34x21 pixels, not 16x16" in reason(encode(noise(0, 21, 34)), square(16, crop="none"))
    whole = noise(0, 16, 16)
    assert np.array_equal(pixels(encode_file(encode(whole), "png", square(16, crop="none"))), whole)


@pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear", "box"])
def test_filters_are_pillows(name: str) -> None:
    image = Image.fromarray(noise(0, 32, 32, 3))
    expected = np.asarray(image.resize((12, 12), Image.Resampling[name.upper()]))
    assert np.array_equal(pixels(encode_file(encode(image), "png", square(12, filter=name))), expected)


def test_scaling_down_is_antialiased() -> None:
    """Every second column white: a filter that looks at single pixels would give stripes or one of the two."""
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    for name in ("lanczos", "bicubic", "bilinear", "box"):
        small = pixels(encode_file(encode(stripes), "png", square(8, filter=name)))
        assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_what_is_encoded_again(orientation: int) -> None:
    image = Image.fromarray(noise(0, 6, 10, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, "png", exif=exif)
    turned = {  # as the EXIF specification has it: where the first row and column of the file are in the scene
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](noise(0, 6, 10, 3))
    packed = encode_file(content.getvalue(), "png", PNG)
    assert np.array_equal(pixels(packed), turned)
    kept = encode_file(content.getvalue(), "png", KEEP)
    assert kept.content == content.getvalue()
    assert (kept.width, kept.height) == (packed.width, packed.height)  # training turns it


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp", "bmp", "ppm"])
def test_keep_keeps_every_byte(extension: str) -> None:
    content = encode(noise(0, 9, 7, 3), extension)
    assert encode_file(content, extension, KEEP) == Encoded(extension, content, 7, 9, 3)


def test_what_training_cannot_read_is_converted_or_a_reason() -> None:
    for extension in ("gif", "tiff"):
        content = encode(noise(0), extension)
        assert "another --encoding" in reason(content, KEEP, extension)
        converted = encode_file(content, extension, Recipe(keep=True, encoding="png"))
        assert converted.extension == "png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(converted.content)).convert("L")), noise(0))


def test_raw_is_an_array_that_numpy_loads() -> None:
    for channels in (1, 3):
        image = noise(0, 5, 7, channels)
        packed = encode_pixels(image, Recipe(keep=False, encoding="raw"))
        assert (packed.extension, packed.channels) == ("npy", channels)
        assert packed.content[6:8] == b"\x01\x00"  # version 1.0
        assert pixels(packed).flags.c_contiguous
        assert np.array_equal(pixels(packed), image)


def test_planar_pixels_are_written_in_rows() -> None:
    planes = noise(0, 3, 4 * 5).reshape(3, 4, 5).transpose(1, 2, 0)
    assert np.array_equal(pixels(encode_pixels(planes, Recipe(keep=False, encoding="raw"))), planes)


@pytest.mark.parametrize(("encoding", "extension"), [("jpeg", "jpg"), ("webp", "webp")])
def test_quality_decides_size_and_likeness(encoding: str, extension: str) -> None:
    image = np.asarray(Image.fromarray(noise(0, 8, 8, 3)).resize((64, 64), Image.Resampling.BICUBIC))
    low, high = (encode_pixels(image, Recipe(keep=False, encoding=encoding, quality=quality)) for quality in (20, 95))
    assert low.extension == high.extension == extension
    assert len(low.content) < len(high.content) / 2
    assert np.abs(pixels(high).astype(int) - image).mean() < np.abs(pixels(low).astype(int) - image).mean()


def test_nothing_of_the_metadata_is_packed() -> None:
    """A colour profile or a comment would make each of a million images larger, and may name who took it."""
    content = io.BytesIO()
    Image.fromarray(noise(0, 8, 8, 3)).save(content, "jpeg", comment="secret", icc_profile=b"secret" * 20, exif=b"Exif\0\0secret")
    for encoding in ("png", "jpeg", "webp"):
        assert b"secret" not in encode_file(content.getvalue(), "jpg", Recipe(keep=False, encoding=encoding)).content


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.fromarray(noise(number, 8, 8)) for number in range(3)]
    for extension in ("gif", "png", "webp"):
        content = io.BytesIO()
        frames[0].save(content, extension, save_all=True, append_images=frames[1:], lossless=True)
        packed = encode_file(content.getvalue(), extension, Recipe(keep=False, encoding="png", channels=1))
        assert np.array_equal(pixels(packed), noise(0)), extension


def claimed_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be an image of any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    assert "more than 67,108,864" in reason(claimed_png(8193, 8192))
    assert "is not a readable image" in reason(claimed_png(8192, 8192))  # decoded, but not all there
    assert "is not a readable image" in reason(claimed_png(2**31 - 1, 2**31 - 1))
    assert "65535 at most" in reason(encode(np.zeros((1, 65536), np.uint8), "bmp"), PNG, "bmp")
    assert "65536x1 pixels" in reason(encode(np.zeros((1, 65536), np.uint8), "bmp"), KEEP, "bmp")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "ppm", "gif", "tiff"])
def test_damage_is_a_reason_and_nothing_else(extension: str) -> None:
    """Cut anywhere, or with bytes flipped: a reason that names no address in memory, or an image."""
    content = encode(noise(0, 24, 24, 3), extension)
    generator = np.random.default_rng(0)
    reasons = []
    for _ in range(60):
        damaged = bytearray(content[: generator.integers(len(content))] if generator.random() < 0.5 else content)
        for place in generator.integers(0, max(len(damaged), 1), 4) if damaged else []:
            damaged[place] ^= generator.integers(1, 256)
        try:
            encode_file(bytes(damaged), extension, PNG)
        except UnreadableError as error:
            reasons.append(str(error))
    assert len(reasons) > 10
    assert not any("0x" in text for text in reasons)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_a_reason(content: bytes) -> None:
    """PostScript least of all: Pillow would start a program for it."""
    assert "is not a readable image" in reason(content)


def test_other_formats_are_not_opened() -> None:
    """Pillow knows some forty, most of which nobody has looked at for years."""
    for extension in ("pcx", "tga", "sgi", "ico"):
        content = encode(noise(0, 16, 16, 3), extension)
        assert decode(content).shape[:2] == (16, 16)
        assert "is not a readable image" in reason(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.zeros((4, 4), np.float32)), "float32 [4, 4]"),
        (npy(np.zeros((3, 4, 4), np.uint8)), "uint8 [3, 4, 4]"),
        (npy(np.zeros((0, 4), np.uint8)), "uint8 [0, 4]"),
        (npy(np.zeros((4, 5), np.uint8, order="F")), "uint8 [4, 5]"),
        (npy(np.array([{"a": 1}]), allow_pickle=True), "object"),
        (npy(np.zeros((4, 4), np.uint8))[:-1], "does not hold as many bytes"),
        (npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4), }", b"(8200, 8200), }"[:9]), "array"),
        (npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(9**9,"), "is not a readable NumPy array"),
        (b"\x93NUMPY\x01\x00", "is not a readable NumPy array"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "is not a readable NumPy array"),
    ],
    ids=["floats", "planes", "empty", "fortran", "objects", "cut", "header", "expression", "no-header", "version"],
)
def test_arrays_that_are_no_images(content: bytes, words: str) -> None:
    assert words in reason(content, PNG, "npy")


def test_an_array_is_an_image_like_others() -> None:
    image = noise(0, 12, 10, 3)
    assert np.array_equal(pixels(encode_file(npy(image), "npy", PNG)), image)
    assert encode_file(npy(image), "npy", square(8)).width == 8
    assert encode_file(npy(image), "npy", KEEP) == Encoded("npy", npy(image), 10, 12, 3)
    grey = noise(0, 12, 10)
    assert np.array_equal(pixels(encode_file(npy(grey[..., None]), "npy", PNG)), grey)


def test_a_name_that_lies_about_the_format_does_not_matter() -> None:
    """Training goes by the content; what it does not read is converted."""
    png, gif = encode(noise(0), "png"), encode(noise(0), "gif")
    for recipe in (KEEP, Recipe(keep=True, encoding="png")):
        assert encode_file(png, "jpg", recipe).content == png
    assert encode_file(gif, "jpg", Recipe(keep=True, encoding="png")).extension == "png"
    assert "is not a readable image" in reason(gif, KEEP, "jpg")


def test_the_limit_is_a_square_of_the_largest_resolution() -> None:
    assert MAX_RESOLUTION**2 == MAX_PIXELS
