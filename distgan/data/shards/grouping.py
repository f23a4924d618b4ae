"""Members of a tar -> samples, grouped as webdataset groups them; every image is decoded once."""

import math
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distgan.data.decoding import EXTENSIONS, RAW_EXTENSION, UnreadableImageError, inspect
from distgan.data.shards.tar import BLOCK, Gap, Member

LABEL_EXTENSION = "cls"
MAX_IMAGE_BYTES = 2**28  # a header's claim of more is not believed
MAX_LABEL_BYTES = 32
SORTED = "pack it again with sorted names (tar --sort=name)"
NO_LABEL = -1

# One sample, as indexes hold it; little-endian.
SAMPLE = np.dtype(
    [
        ("offset", "<u8"),  # of the image's bytes in the shard; of a raw image: of its pixels
        ("bytes", "<u4"),
        ("crc32", "<u4"),
        ("label", "<i4"),  # NO_LABEL: none
        ("width", "<u2"),
        ("height", "<u2"),
        ("channels", "u1"),  # 1 or 3
        ("decoder", "u1"),  # a `decoding.Decoder`
    ]
)
_LABEL = list(SAMPLE.fields or ()).index("label")


@dataclass(frozen=True)
class Damage:
    """What a shard holds that is no whole sample.

    Attributes:
        key: of the sample; None where what is lost has no name.
        text: completes a sentence that begins with the shard's name, mend included.
        num_samples: that are lost by it, as often as each is there; where they have no names, an estimate from the bytes that errs high.
        is_open: more may be lost than anything in the shard tells.
    """

    key: str | None
    text: str
    num_samples: int = 1
    is_open: bool = False


class _Refused(Exception):  # noqa: N818 - carried to the damage of one sample
    """Why a sample is none; the message is the text of a `Damage`."""


@dataclass(frozen=True)
class _Group:
    """A group, where it stands among others."""

    key: str
    has_its_parts: bool  # one label and an image


class Grouping:
    """Groups consecutive members by their key (the name up to the first dot of its last part), as webdataset does."""

    def __init__(self, shard: Path, file: BinaryIO) -> None:
        self._shard, self._file = shard, file
        self.extensions: set[str] = set()  # of the plain files that were seen
        self._key: str | None = None
        self._members: list[tuple[str, Member]] = []
        self._found: dict[str, tuple | Damage | None] = {}  # by key: a row of SAMPLE, why there is none, or None: nothing of interest
        self._parts: dict[str, Counter[str]] = {}  # how often each extension comes, by key
        self._places: list[_Group | Gap] = []  # groups of interest and gaps, in their order
        self._member_bytes = 0

    def add(self, item: Member | Gap) -> None:
        """The next of what `tar.walk` yields."""
        if isinstance(item, Gap):
            self._close()
            self._places.append(item)
            return
        content_blocks = -(-item.bytes // BLOCK) if item.is_plain else 0
        self._member_bytes += item.offset - item.start + content_blocks * BLOCK
        key, extension = key_and_extension(item.name)
        if item.is_directory or not key.rpartition("/")[2]:  # hidden files, such as macOS's ._NAME, are no samples
            return
        if key != self._key:
            self._close()
            self._key = key
        self._members.append((extension, item))
        self.extensions |= {extension} if item.is_plain else set()

    def result(self) -> tuple[list[tuple[str, tuple]], list[Damage]]:
        """(key, row) of every whole sample in their order, and what is none."""
        self._close()
        self._refuse_what_lost_a_part()
        samples = [(key, found) for key, found in self._found.items() if isinstance(found, tuple)]
        of_samples = [found for found in self._found.values() if isinstance(found, Damage)]
        gaps = [place for place in self._places if isinstance(place, Gap)]
        num_named = len(samples) + len(of_samples)
        if num_named == 0:
            return [], [Damage(None, gap.reason, is_open=True) for gap in gaps]
        sample_bytes = self._member_bytes / num_named
        numbers = [max(1, math.ceil((gap.end - gap.start) / sample_bytes)) for gap in gaps]
        of_gaps = [Damage(None, gap.reason, number, gap.is_cut) for gap, number in zip(gaps, numbers, strict=True)]
        return samples, of_gaps + of_samples

    def _close(self) -> None:
        """The group has ended."""
        key, members = self._key, self._members
        self._key, self._members = None, []
        if key is None:
            return
        extensions = [extension for extension, _ in members]
        has_its_parts = extensions.count(LABEL_EXTENSION) == 1 and len(images_among(extensions)) > 0
        parts = self._parts.setdefault(key, Counter())
        parts.update(extensions)
        times = max(parts.values())
        try:
            found = self._row(key, members)
        except _Refused as refused:
            found = Damage(key, str(refused), times)
        if key in self._found and not (found is None and self._found[key] is None):
            found = Damage(key, f"{_in_pieces(key, times)}; {SORTED}", times)
        self._found[key] = found
        if found is not None:
            self._places.append(_Group(key, has_its_parts))

    def _refuse_what_lost_a_part(self) -> None:
        """Beside a gap a member may be lost, and beside a torn group, under another name.

        Only a label can be missed unseen: a sample that has one is whole wherever it stands, and so is one without in a shard without any.
        """
        num_pieces = Counter(place.key for place in self._places if isinstance(place, _Group))
        gaps = [isinstance(place, Gap) for place in self._places]
        torn = [
            isinstance(place, _Group)
            and (num_pieces[place.key] > 1 or (isinstance(self._found[place.key], Damage) and not place.has_its_parts))
            for place in self._places
        ]
        around = [slice(max(0, number - 1), number + 2) for number in range(len(self._places))]
        have_labels = LABEL_EXTENSION in self.extensions or all(any(gaps[near]) for near in around)
        for place, is_torn, near in zip(self._places, torn, around, strict=True):
            if isinstance(place, Gap):
                continue
            found = self._found[place.key]
            may_lack_its_label = have_labels and isinstance(found, tuple) and found[_LABEL] == NO_LABEL
            if any(gaps[near]) and (is_torn or may_lack_its_label):
                text = f"holds the sample {place.key!r} beside bytes that cannot be read, in which a part of it may be lost; pack it again"
            elif any(torn[near]) and may_lack_its_label:
                text = f"holds the sample {place.key!r} without a label, beside members that belong elsewhere; {SORTED}"
            else:
                continue
            self._found[place.key] = Damage(place.key, text, found.num_samples if isinstance(found, Damage) else 1)

    def _row(self, key: str, members: list[tuple[str, Member]]) -> tuple | None:
        """The index row of a sample; None if no member is an image or a label."""
        by_extension = dict(members)
        images = images_among(by_extension)
        for extension, member in members:
            if not member.is_plain and (extension in images or extension == LABEL_EXTENSION):
                kind = (
                    "as a sparse file; pack it again as a plain one" if member.is_sparse else "which is a link or a device; pack it again"
                )
                raise _Refused(f"holds {member.name!r}{' ' if member.is_sparse else ', '}{kind}")
        if not images and LABEL_EXTENSION not in by_extension:
            return None  # files that belong to no sample, such as a README
        if key.startswith("/") or ".." in key.split("/"):
            raise _Refused(f"holds {members[0][1].name!r}, whose path leads out of the shard; pack it again with plain names")
        if len(by_extension) < len(members):
            doubled = next(member.name for extension, member in members if by_extension[extension] is not member)
            raise _Refused(f"holds {doubled!r} twice; pack it again")
        if len(images) != 1:
            number = "no image" if not images else f"{len(images)} images"
            raise _Refused(f"holds {number} in the sample {key!r}; pack it again with one image each")
        image = by_extension[images[0]]
        if image.bytes > MAX_IMAGE_BYTES:
            raise _Refused(f"holds {image.name!r} of {image.bytes} bytes; pack it again with images below {MAX_IMAGE_BYTES >> 20} MiB")
        payload = self._read(image)
        try:
            facts = inspect(payload, images[0])
        except UnreadableImageError as error:
            raise _Refused(f"holds {image.name!r}, {error}") from None
        label = self._label(key, by_extension.get(LABEL_EXTENSION))
        payload = payload[facts.start :]
        place = (image.offset + facts.start, len(payload), zlib.crc32(payload))
        return (*place, label, facts.width, facts.height, facts.channels, int(facts.decoder))

    def _label(self, key: str, member: Member | None) -> int:
        if member is None:
            return NO_LABEL
        try:
            return parse_label(key, self._read(member) if member.bytes <= MAX_LABEL_BYTES else None)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _read(self, member: Member) -> bytes:
        position = self._file.tell()
        self._file.seek(member.offset)
        content = self._file.read(member.bytes)
        self._file.seek(position)
        return content


def _in_pieces(key: str, times: int) -> str:
    if times > 1:
        return f"holds the sample {key!r} {'twice' if times == 2 else f'{times} times'}"
    return f"does not hold the members of the sample {key!r} side by side"


def images_among(extensions: Iterable[str]) -> list[str]:
    """Those of images; a raw one beside another image is something else."""
    extensions = list(extensions)
    return [extension for extension in extensions if extension in EXTENSIONS] or [RAW_EXTENSION] * (RAW_EXTENSION in extensions)


def key_and_extension(name: str) -> tuple[str, str]:
    """'a/b.seg.PNG' -> ('a/b', 'seg.png'): webdataset's rule, the key ends at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def parse_label(key: str, text: bytes | None) -> int:
    """The label of a sample; None: the text is too long to be one.

    Raises:
        ValueError: it is no whole number from 0; the message completes a sentence that begins with the shard's name.
    """
    text = b"a long text" if text is None else text.strip()
    if not text.isdigit() or int(text) >= 2**31:
        shown = text.decode(errors="replace")
        raise ValueError(f"holds the label {shown!r} in the sample {key!r}; make its .{LABEL_EXTENSION} a whole number from 0")
    return int(text)
