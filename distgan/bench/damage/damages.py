"""Damage to the bytes of a shard, and samples that are not what they should be."""

import functools
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.bench.damage.cases import Case, Member, damage, encode, members, pack, pixels

_tar = functools.partial(damage, "the tar")
_sample = functools.partial(damage, "samples")
_HIT = "000007"  # the sample that is damaged


def _packed(directory: Path, extension: str = "png") -> tuple[Path, bytearray, dict[str, tuple[int, int]]]:
    shard = directory / "shard.tar"
    places = pack(shard, members(extension=extension))
    return shard, bytearray(shard.read_bytes()), places


@_tar("a header with a flipped bit", whole=19)
def _(directory: Path) -> None:
    shard, content, places = _packed(directory)
    content[places[f"{_HIT}.cls"][0] + 3] ^= 1
    shard.write_bytes(content)


@_tar("a header of zeros", whole=19)
def _(directory: Path) -> None:
    shard, content, places = _packed(directory)
    start = places[f"{_HIT}.cls"][0]
    content[start : start + 512] = bytes(512)
    shard.write_bytes(content)


def _cut(directory: Path, member: str, num_bytes: int) -> Case:
    """Of two shards of ten, the second ends so many bytes after a header begins."""
    shards = [directory / "000.tar", directory / "001.tar"]
    pack(shards[0], members(range(10)))
    places = pack(shards[1], members(range(10, 20)))
    os.truncate(shards[1], places[member][0] + num_bytes)
    return Case(str(directory), [str(shard) for shard in shards])


@_tar("cut inside a header", whole=12)
def _(directory: Path) -> Case:
    return _cut(directory, "000012.cls", 200)


@_tar("cut between two samples", whole=12)
def _(directory: Path) -> Case:
    return _cut(directory, "000012.cls", 0)


@_tar("cut inside an image", whole=12)
def _(directory: Path) -> Case:
    return _cut(directory, "000012.png", 612)


@_tar("cut inside the end mark", whole=20)
def _(directory: Path) -> None:
    shard, content, places = _packed(directory)
    end = places["000019.png"][1] + len(encode(pixels(19)))
    shard.write_bytes(content[: end + -end % 512 + 512])


@_tar("40 bytes lost inside an image", whole=19)
def _(directory: Path) -> None:
    """Of its file and of the padding: no other sample loses any."""
    shard, content, places = _packed(directory)
    start = places[f"{_HIT}.png"][1] + 300
    shard.write_bytes(content[:start] + content[start + 40 :])


@_tar("a block of zeros in an image", whole=19)
def _(directory: Path) -> None:
    shard, content, places = _packed(directory)
    start = places[f"{_HIT}.png"][1] + 128
    content[start : start + 512] = bytes(512)
    shard.write_bytes(content)


def _with_flipped_png(directory: Path, is_seen: bool) -> None:
    """The first bit from the middle on that makes the image one that Pillow refuses, or another one for it, in which it sees nothing."""
    shard, content, places = _packed(directory)
    image = encode(pixels(7))
    for bit in range(4 * len(image), 8 * len(image)):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = np.asarray(Image.open(io.BytesIO(flipped)))
        except OSError:
            decoded = None
        is_other = decoded is None or not np.array_equal(decoded, pixels(7))
        if is_other and is_seen == (decoded is None):
            start = places[f"{_HIT}.png"][1]
            content[start : start + len(image)] = flipped
            break
    shard.write_bytes(content)


@_tar("a flipped bit in a png", whole=19)
def _(directory: Path) -> None:
    _with_flipped_png(directory, is_seen=True)


@_tar("a flipped bit in a png that decoders miss", whole=19)
def _(directory: Path) -> None:
    """They stop when they have enough pixels, and do not come to the checksums behind."""
    _with_flipped_png(directory, is_seen=False)


def _with_flipped_bmp(directory: Path, name: str) -> Path:
    _, content, places = _packed(directory, "bmp")
    content[places[f"{_HIT}.bmp"][1] + 400] ^= 1
    flipped = directory / name
    flipped.write_bytes(content)
    return flipped


@_tar("a flipped bit in a bmp, before it is first read", whole=19, is_visible=False, extension="bmp")
def _(directory: Path) -> None:
    """A bmp has no checksum, and a tar has none of what it holds."""
    _with_flipped_bmp(directory, "shard.tar")


@_tar("a flipped bit in a bmp, once it was read", whole=19)
def _(directory: Path) -> Case:
    flipped = _with_flipped_bmp(directory, "flipped")
    shard = str(directory / "shard.tar")
    return Case(shard, [shard], extension="bmp", replace={shard: str(flipped)})


@_tar("a zip under a tar's name", whole=0)
def _(directory: Path) -> None:
    (directory / "shard.tar").write_bytes(b"PK\3\4" + bytes(range(256)) * 40)


@_sample("no image", whole=19)
def _(directory: Path) -> None:
    pack(directory / "shard.tar", [member for member in members() if member[0] != f"{_HIT}.png"])


@_sample("no label", whole=19)
def _(directory: Path) -> None:
    pack(directory / "shard.tar", [member for member in members() if member[0] != f"{_HIT}.cls"])


@_sample("packed twice", whole=20, declined=1)
def _(directory: Path) -> None:
    """The same bytes: which of the two is meant does not matter here, but nobody knows that of a key."""
    pack(directory / "shard.tar", members() + members([7]))


@_sample("members of two interleaved", whole=18)
def _(directory: Path) -> None:
    packed = members()
    packed[15], packed[16] = packed[16], packed[15]
    pack(directory / "shard.tar", packed)


def _with_label(directory: Path, text: bytes) -> None:
    packed: list[Member] = [(name, text) if name == f"{_HIT}.cls" else (name, content) for name, content in members()]
    pack(directory / "shard.tar", packed)


@_sample("a label of letters", whole=19)
def _(directory: Path) -> None:
    _with_label(directory, b"cat")


@_sample("a label below zero", whole=19)
def _(directory: Path) -> None:
    _with_label(directory, b"-1")


@_sample("a label of 2^40", whole=19)
def _(directory: Path) -> None:
    _with_label(directory, b"1099511627776")


@_sample("a label of 1,000,000", whole=19)
def _(directory: Path) -> None:
    """Of a class that there is not; distgan is told of twenty, and would take this for the largest of a million otherwise."""
    _with_label(directory, b"1000000")


@_sample("a label of another class", whole=19, is_visible=False)
def _(directory: Path) -> None:
    _with_label(directory, b"4")


@_sample("an image of another format under its name", whole=20)
def _(directory: Path) -> None:
    """A bmp that is called png: both read it as what it is."""
    packed = [(name, encode(pixels(7), "bmp")) if name == f"{_HIT}.png" else (name, content) for name, content in members()]
    pack(directory / "shard.tar", packed)


@_sample("half an image", whole=19)
def _(directory: Path) -> None:
    """Cut before it was packed."""
    packed = [(name, content[:400] if name == f"{_HIT}.png" else content) for name, content in members()]
    pack(directory / "shard.tar", packed)
