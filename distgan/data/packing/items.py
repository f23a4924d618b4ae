"""What a source is made of: items, each with a name, the place of its content and a label.

A place is where a worker process finds the content by itself: nothing but names and numbers is kept of a source in memory.
"""

from dataclasses import dataclass, field

from distgan.data.shards.grouping import MAX_IMAGE_BYTES

MAX_CONTENT_BYTES = MAX_IMAGE_BYTES  # of one image or label file; what claims more is none


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file: the whole of it, or a member of a tar."""

    path: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip, by what the central directory says of it."""

    path: str
    header_offset: int
    compressed_bytes: int
    bytes: int
    method: int  # 0 stored, 8 deflated
    crc32: int


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The uint8 pixels of one image in a file that holds nothing else."""

    path: str
    offset: int
    shape: tuple[int, ...]  # [H, W] or [H, W, 3]
    planar: bool = False  # the file holds [3, H, W]

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * (3 if len(self.shape) == 3 else 1)


Place = FileRange | ZipMember | PixelRange


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    name: str  # its path in the source; people know it by this
    place: Place
    label: int | None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a source as it was found; `name` is its path in the source."""

    name: str
    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the source that is not in the shards, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A source before it is opened: what it is, and the files that a change of it would show in."""

    kind: str
    path: str
    files: list[FoundFile]
    left_out: list[LeftOut] = field(default_factory=list)
    num_other_files: int = 0


@dataclass(frozen=True)
class Source:
    """An opened source.

    `parts` has "train" and, where the source has a test part of its own, "test". `class_names` is the list by label, or
    None where labels are mere numbers.
    """

    kind: str
    parts: dict[str, list[Item]]
    class_names: list[str] | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    num_links: int = 0
    num_other_files: int = 0
