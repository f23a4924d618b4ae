"""Decoding: every kind of image gives Pillow's pixels, whoever decodes it; what is damaged or huge is refused before it costs anything."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from distgan.data import decoding
from distgan.data.decoding import Decoder, UnreadableImageError, decode, decode_into, decode_whole, inspect
from tests.shards import encode, noise


def read(payload: bytes, side: int, channels: int, extension: str = "png") -> np.ndarray:
    """Decode as a run does: by what indexing has found out."""
    facts = inspect(payload, extension)
    out = np.zeros((side, side, channels), np.uint8)
    decode_into(out, payload[facts.start :], facts.decoder, facts.width, facts.height, facts.channels)
    return out


def array(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, pixels, allow_pickle=False)
    return content.getvalue()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (40, 40), (40, 17), (17, 40), (16, 64), (5, 3)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "npy", "bmp"])
def test_images_are_scaled_to_fill_and_cropped(height: int, width: int, channels: int, extension: str) -> None:
    pixels = noise(3, height, width, channels)
    payload = array(pixels) if extension == "npy" else encode(pixels, extension)
    fitted = np.array(ImageOps.fit(Image.fromarray(pixels), (16, 16), method=Image.Resampling.LANCZOS)).reshape(16, 16, channels)
    assert np.array_equal(read(payload, 16, channels, extension), fitted)


def test_the_crop_is_the_centre() -> None:
    """Of an image three times as wide as high only the middle third is left."""
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    assert (read(encode(pixels), 10, 1) == 255).all()
    assert (read(encode(pixels.T.copy()), 10, 1) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_kinds_of_images(mode: str, channels: int) -> None:
    image = Image.fromarray(noise(2, channels=3)).convert(mode)
    expected = np.array(image.convert("L" if channels == 1 else "RGB")).reshape(8, 8, channels)
    assert np.array_equal(read(encode(image), 8, channels), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(extension: str, channels: int) -> None:
    pixels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    result = read(encode(pixels, extension), 8, channels)
    assert np.abs(result[..., 0].astype(int) - pixels // 257).max() <= 1


def photograph(channels: int, side: int = 64) -> Image.Image:
    """Something that a JPEG is made for: smooth."""
    return Image.fromarray(noise(1, 8, 8, channels)).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("image", "extension", "decoder"),
    [
        (photograph(3), "jpg", Decoder.JPEG_TURBO),
        (photograph(1), "jpg", Decoder.JPEG_TURBO),
        (photograph(3).convert("CMYK"), "jpg", Decoder.PILLOW),
        (photograph(3), "png", Decoder.SPNG),
        (photograph(1), "png", Decoder.SPNG),
        (photograph(3).convert("P"), "png", Decoder.PILLOW),
        (photograph(3).convert("RGBA"), "png", Decoder.PILLOW),
        (photograph(1).convert("1"), "png", Decoder.PILLOW),
        (photograph(3), "webp", Decoder.PILLOW),
    ],
)
def test_the_quick_decoders_give_pillows_pixels(image: Image.Image, extension: str, decoder: Decoder) -> None:
    payload = encode(image, extension)
    facts = inspect(payload, extension)
    assert facts.decoder is decoder
    with Image.open(io.BytesIO(payload)) as stored:
        expected = np.asarray(stored.convert("L" if facts.channels == 1 else "RGB")).reshape(64, 64, facts.channels)
    assert np.array_equal(read(payload, 64, facts.channels, extension), expected)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "npy"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_whole_image_is_neither_scaled_nor_cropped(mode: str, extension: str, orientation: int) -> None:
    """It is what Pillow shows, upright."""
    image = photograph(3).crop((0, 0, 64, 20)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    if extension == "npy":
        np.save(content, expected := np.asarray(image.convert("RGB")))
    else:
        kinds = {"jpg": {"1": "L", "P": "RGB", "RGBA": "RGB"}, "png": {"CMYK": "RGB"}, "webp": {"1": "RGB", "CMYK": "RGB"}}
        image.convert(kinds[extension].get(mode, mode)).save(content, extension.replace("jpg", "jpeg"), exif=exif)
        with Image.open(content) as stored:
            grey = stored.mode in ("1", "L")
            expected = np.asarray(ImageOps.exif_transpose(stored).convert("L" if grey else "RGB"))
    facts = inspect(content.getvalue(), extension)
    found = decode_whole(content.getvalue()[facts.start :], facts.decoder, facts.width, facts.height, facts.channels)
    assert np.array_equal(found, expected.reshape(*expected.shape[:2], -1))


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "npy"])
def test_a_whole_image_of_other_bytes_is_refused(extension: str) -> None:
    payload = array(noise(1, 9, 13)) if extension == "npy" else encode(noise(1, 9, 13), extension)
    facts = inspect(payload, extension)
    with pytest.raises(UnreadableImageError):
        decode_whole(payload[facts.start : facts.start + 50], facts.decoder, facts.width, facts.height, facts.channels)
    with pytest.raises(UnreadableImageError):
        decode_whole(payload[facts.start :], facts.decoder, facts.width + 1, facts.height, facts.channels)


def test_transparent_colours_stay_with_pillow() -> None:
    """tRNS makes one colour of an RGB image transparent; libspng would make it a fourth channel."""
    content = io.BytesIO()
    photograph(3).save(content, "png", transparency=(0, 0, 0))
    assert inspect(content.getvalue(), "png").decoder is Decoder.PILLOW


def test_a_quick_decoder_that_differs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one level of one pixel, as another version of a library may."""
    original = decoding._QUICK[Decoder.SPNG]

    def other(payload: bytes, channels: int) -> np.ndarray:
        pixels = original(payload, channels).copy()
        pixels[3, 3, 0] ^= 1
        return pixels

    monkeypatch.setitem(decoding._QUICK, Decoder.SPNG, other)
    assert inspect(encode(noise(0)), "png").decoder is Decoder.PILLOW


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation: int) -> None:
    """EXIF's orientation, as Pillow applies it."""
    image = photograph(3).crop((0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, "jpeg", exif=exif, quality=95)
    facts = inspect(content.getvalue(), "jpg")
    with Image.open(io.BytesIO(content.getvalue())) as stored:
        upright = ImageOps.exif_transpose(stored)
        assert (facts.width, facts.height) == upright.size
        expected = np.asarray(ImageOps.fit(upright, (32, 32), method=Image.Resampling.LANCZOS))
    assert np.array_equal(read(content.getvalue(), 32, 3, "jpg"), expected)


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3)])
def test_raw_images(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    payload = array(pixels)
    facts = inspect(payload, "npy")
    assert (facts.decoder, facts.width, facts.height, facts.channels) == (Decoder.RAW, 8, 6, shape[2] if len(shape) == 3 else 1)
    assert payload[facts.start :] == pixels.tobytes()


class Canary:
    """Writes a file if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([[Canary(tmp_path / "canary")]], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImageError, match=r"array of object \[1, 1\]"):
        inspect(content.getvalue(), "npy")
    assert not (tmp_path / "canary").exists()


def array_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (array(np.zeros((4, 4), np.float32)), "an array of float32 [4, 4]"),
        (array(np.zeros((4, 4, 4), np.uint8)), "uint8 [4, 4, 4]"),
        (array(np.zeros((2, 4, 4, 3), np.uint8)), "uint8 [2, 4, 4, 3]"),
        (array(np.asfortranarray(np.zeros((4, 5, 3), np.uint8))), "row by row"),
        (array(np.zeros((0, 5), np.uint8)), "uint8 [0, 5]"),
        (array(np.zeros((4, 4), np.uint8))[:-1], "as many bytes as its header says"),
        (array(np.zeros((4, 4), np.uint8))[:20], "not a readable NumPy array"),
        (b"hello", "not a readable NumPy array"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000, "not a readable NumPy array"),
        (array_of(b"(" * 900), "not a readable NumPy array"),
        (array_of(b"-" * 900 + b"1"), "not a readable NumPy array"),
        (array_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -4)}"), "uint8 [-4, -4]"),
        (array_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000, 8000)}"), "8000x9000 pixels"),
    ],
)
def test_arrays_that_are_no_images(payload: bytes, words: str) -> None:
    with pytest.raises(UnreadableImageError) as error:
        inspect(payload, "npy")
    assert words in str(error.value)


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims side x side pixels of three channels, with all of its rows compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(1 + 3 * side)) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "words"), [(10_000, "of 10000x10000 pixels"), (14_000, "of more pixels than anybody decodes")])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int, words: str) -> None:
    """Hundreds of kilobytes that would be hundreds of megabytes of pixels cost none of them."""
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    program = f"""
import resource
from distgan.data.decoding import UnreadableImageError, inspect
payload = open({str(tmp_path / "bomb.png")!r}, "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    inspect(payload, "png")
except UnreadableImageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    sentence, grown_kilobytes = result.stdout.splitlines()
    assert sentence == f"which is {words}; scale it down"
    assert int(grown_kilobytes) < 20_000


def test_no_format_is_read_that_runs_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whatever the name ends in."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho ran > {tmp_path / 'canary'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    payload = encode(noise(0, channels=3), "eps")
    with pytest.raises(UnreadableImageError):
        inspect(payload, "png")
    with pytest.raises(UnreadableImageError):
        decode(payload, 8, 3)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_a_broken_exif_is_no_crash(extension: str, seed: int) -> None:
    """Pillow raises TypeError and struct.error in some of these."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a camera", 0x011A: 72.0})
    content = io.BytesIO()
    Image.fromarray(noise(0, channels=3)).save(content, {"jpg": "jpeg"}.get(extension, extension), exif=exif)
    whole = exif.tobytes()[6:]
    random = np.random.default_rng(seed)
    readable = 0
    for _ in range(300):
        broken = bytearray(whole)
        for place in random.integers(8, len(whole), 2):
            broken[place] = random.integers(256)
        payload = content.getvalue().replace(whole, broken)
        assert payload != content.getvalue() or broken == whole
        try:
            inspect(_with_checksums(payload) if extension == "png" else payload, extension)
            readable += 1
        except UnreadableImageError:
            pass
    assert readable > 200


def test_every_flipped_bit_of_a_png_is_seen() -> None:
    """Pillow and libspng stop when they have enough pixels, before the checksums: of these bits they miss 5 and 86."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:20, 10:16] = 200
    payload = encode(pixels)
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnreadableImageError):
            inspect(bytes(flipped), "png")
    for length in range(len(payload)):
        with pytest.raises(UnreadableImageError):
            inspect(payload[:length], "png")
    assert np.array_equal(read(payload + b"what follows a png", 32, 1)[..., 0], pixels)


def _with_checksums(png: bytes) -> bytes:
    """With the right CRC in every chunk."""
    fixed, place = png[:8], 8
    while place < len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        fixed += png[place:end] + struct.pack(">I", zlib.crc32(png[place + 4 : end]))
        place = end + 4
    return fixed


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_payload_that_changes_after_indexing(extension: str) -> None:
    """The quick decoders' own complaints become ours, too."""
    payload = encode(photograph(3), extension)
    facts = inspect(payload, extension)
    out = np.zeros((64, 64, 3), np.uint8)
    for broken in (payload[:20], b"", b"nonsense"):
        with pytest.raises(UnreadableImageError):
            decode_into(out, broken, facts.decoder, facts.width, facts.height, facts.channels)
    with pytest.raises(UnreadableImageError):
        decode(b"nonsense", 64, 3)
