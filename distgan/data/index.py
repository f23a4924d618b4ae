"""One shard's index: where each sample's image lies in the tar, its checksum, label and size.

A tar has no table of contents and Python's reader ends at the first damaged header without a word, so every shard is read
once from end to end: what is not a whole, readable sample is refused by name, and what follows the last member must be
the two zero blocks that end a tar.
"""

import hashlib
import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.errors import InputError
from distgan.files import write_atomically

IMAGE_EXTENSIONS = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "ppm", "pgm"})
LABEL_EXTENSION = "cls"
SORTED = "pack it again with sorted names (tar --sort=name)"
NO_LABEL = -1
# What Pillow raises on damaged bytes, by format.
UNREADABLE_IMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# One sample; little-endian, saved as .npy without pickle and memory-mapped.
SAMPLE = np.dtype(
    [
        ("offset", "<u8"),  # of the image's bytes in the shard
        ("bytes", "<u4"),
        ("crc32", "<u4"),
        ("label", "<i4"),  # NO_LABEL: none
        ("width", "<u2"),
        ("height", "<u2"),
        ("channels", "u1"),  # 1 or 3
    ]
)


@dataclass(frozen=True)
class ShardRecord:
    """A line of shards.jsonl: what a run must know of a shard without opening it."""

    name: str
    bytes: int
    sha256: str
    num_samples: int
    num_labelled: int
    num_classes: int  # highest label + 1
    channels: int  # 3 if any image is in colour
    min_side: int
    max_side: int
    num_not_square: int
    index_bytes: int  # of the index file, the other half of this record
    index_crc32: int


def index_path(shard: Path, index_directory: Path) -> Path:
    """Where the index of `shard` is kept."""
    return index_directory / f"{shard.name}.index"


def index_shard(shard: Path, index_directory: Path) -> ShardRecord:
    """Read the whole shard and write its index.

    Raises:
        InputError: it is not a tar, is damaged, or holds something that is not a whole sample.
    """
    samples = _read_samples(shard)
    table = np.array(samples, dtype=SAMPLE)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    write_atomically(index_path(shard, index_directory), content.getvalue())
    labelled = table["label"][table["label"] != NO_LABEL]
    sides = np.concatenate([table["width"], table["height"]])
    return ShardRecord(
        name=shard.name,
        bytes=shard.stat().st_size,
        sha256=sha256_of(shard),
        num_samples=len(table),
        num_labelled=len(labelled),
        num_classes=int(labelled.max()) + 1 if len(labelled) else 0,
        channels=int(table["channels"].max()),
        min_side=int(sides.min()),
        max_side=int(sides.max()),
        num_not_square=int((table["width"] != table["height"]).sum()),
        index_bytes=len(content.getvalue()),
        index_crc32=zlib.crc32(content.getvalue()),
    )


def load_index(shard: Path, index_directory: Path) -> np.ndarray:
    """The samples of a shard as a memory-mapped array of `SAMPLE`; safe to call from several threads at once.

    Not by np.load: it compiles the header as Python, and before 3.11.8 and 3.12.2 a thread that is switched to while another one
    compiles raises SystemError (python/cpython#106905). The header says nothing that is not known: `index_shard` wrote it.
    """
    with open(index_path(shard, index_directory), "rb") as file:
        np.lib.format.read_magic(file)
        header_bytes = int.from_bytes(file.read(2), "little")
        return np.memmap(file, SAMPLE, mode="r", offset=file.tell() + header_bytes)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_samples(shard: Path) -> list[tuple]:
    with open(shard, "rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            samples = _samples(shard, tar)
        except InputError:
            raise
        except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"{shard} is not a readable tar ({error}); pack it again or take it out of data.url.") from None
        _check_end(shard, file, tar.offset)
    if not samples:
        found = sorted({_key_and_extension(member.name)[1] for member in tar.getmembers() if member.isfile()})
        raise InputError(
            f"{shard} holds no image ({', '.join(sorted(IMAGE_EXTENSIONS))}), only {', '.join(found[:5]) or 'nothing'}: a name's extension "
            "begins at its first dot; pack it again or take it out of data.url."
        )
    return samples


def _samples(shard: Path, tar: tarfile.TarFile) -> list[tuple]:
    """Group consecutive members by their key (the name up to the first dot of its last part), as webdataset does."""
    samples: list[tuple] = []
    seen: set[str] = set()
    key, members = None, {}
    for member in tar:
        member_key, extension = _key_and_extension(member.name)
        if member.isdir() or not member_key.rpartition("/")[2]:  # hidden files, such as macOS's ._NAME, are no samples
            continue
        if not member.isfile():
            raise InputError(f"{shard} holds {member.name!r}, which is a link or a device; pack it again with plain files.")
        if member_key != key:
            if key is not None:
                samples += _sample(shard, tar, key, members)
            if member_key in seen:
                raise InputError(f"{shard} holds the sample {member_key!r} twice or in pieces; {SORTED}.")
            seen.add(member_key)
            key, members = member_key, {}
        if extension in members:
            raise InputError(f"{shard} holds {member.name!r} twice; pack it again.")
        members[extension] = member
    return samples + (_sample(shard, tar, key, members) if key is not None else [])


def _key_and_extension(name: str) -> tuple[str, str]:
    """'a/b.seg.PNG' -> ('a/b', 'seg.png'): webdataset's rule, the key ends at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _sample(shard: Path, tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo]) -> list[tuple]:
    """The index row of one sample, as a list of one; a list of none if no member is an image or a label."""
    images = [member for extension, member in members.items() if extension in IMAGE_EXTENSIONS]
    if not images and LABEL_EXTENSION not in members:
        return []  # files that belong to no sample, such as a README
    if not images and any(_key_and_extension(other.name) in [(key, e) for e in IMAGE_EXTENSIONS] for other in tar.getmembers()):
        raise InputError(f"{shard} does not hold the members of the sample {key!r} side by side; {SORTED}.")
    if len(images) != 1:
        raise InputError(f"{shard} holds {len(images)} images in the sample {key!r}; pack it again with one image each.")
    payload = _read_member(shard, tar, images[0])
    try:
        with Image.open(io.BytesIO(payload)) as image:
            image.load()  # half an image has a whole header
            width, height, mode = *image.size, image.mode
    except UNREADABLE_IMAGE:
        raise InputError(f"{shard} holds {images[0].name!r}, which is not a readable image; pack it again.") from None
    if max(width, height) > np.iinfo(np.uint16).max:
        raise InputError(f"{shard} holds {images[0].name!r} of {width}x{height} pixels; scale it below 65,536 a side.")
    channels = 1 if mode in ("1", "L", "LA", "I", "I;16", "F") else 3
    label = _label(shard, tar, key, members.get(LABEL_EXTENSION))
    return [(images[0].offset_data, len(payload), zlib.crc32(payload), label, width, height, channels)]


def _label(shard: Path, tar: tarfile.TarFile, key: str, member: tarfile.TarInfo | None) -> int:
    if member is None:
        return NO_LABEL
    text = _read_member(shard, tar, member)
    if len(text) > 32 or not text.strip().isdigit() or int(text) >= 2**31:
        shown = text[:32].decode(errors="replace").strip()
        raise InputError(f"{shard} holds the label {shown!r} in the sample {key!r}; make its .{LABEL_EXTENSION} a whole number from 0.")
    return int(text)


def _read_member(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issparse():
        raise InputError(f"{shard} holds {member.name!r} as a sparse file; pack it again as a plain one.")
    if member.offset_data + member.size > shard.stat().st_size:
        raise InputError(f"{shard} ends inside {member.name!r}: it is cut short; copy or pack it again.")
    extracted = tar.extractfile(member)
    assert extracted is not None, "only regular members are read"
    return extracted.read()


def _check_end(shard: Path, file: io.BufferedReader, offset: int) -> None:
    """What follows the last header that was read must be at least two zero blocks, and zeros only."""
    file.seek(offset)
    rest_bytes = 0
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            raise InputError(f"{shard} is damaged after byte {offset}: what follows is no tar header; copy or pack it again.")
        rest_bytes += len(block)
    if rest_bytes < 2 * tarfile.BLOCKSIZE:
        raise InputError(f"{shard} ends at byte {offset} without the end mark of a tar: it is cut short; copy or pack it again.")
    if rest_bytes > 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE:  # more than any padding: a hole that a crash left, most likely
        raise InputError(f"{shard} holds {rest_bytes} zero bytes after byte {offset}, where it should end; copy or pack it again.")
