"""WebDataset shards, read through distgan's own index: it has read every one of them from end to end."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from distgan.data.packing.archives import path_inside
from distgan.data.packing.items import FileRange, Found, FoundFile, Item, LeftOut, Source
from distgan.data.shards import tar
from distgan.data.shards.class_names import names_file
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.index import Shard
from distgan.data.shards.manifest import index_shards
from distgan.data.shards.urls import called, named_locally, resolve
from distgan.errors import InputError


def find(src: str) -> Found:
    """The shards of a directory, a pattern, or one tar."""
    with called("SRC"):
        paths = named_locally(src)
        resolve(src)  # which also says what is missing
    statuses = [path.stat() for path in paths]
    return Found("webdataset", src, [FoundFile(p.name, str(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, statuses, strict=True)])


def open_shards(paths: Sequence[Path]) -> Source:
    """The image and label of each whole sample of these shards, by its key; other members are left out."""
    with called("SRC"):
        manifest = index_shards(paths)
    items = [item for shard in manifest.shards for item in _items(shard)]
    damaged = [(shard, damage) for shard in (*manifest.shards, *manifest.unreadable) for damage in shard.record.damages]
    left_out = [LeftOut(shard.record.name, damage.text) for shard, damage in damaged]
    return Source("webdataset", {"train": items}, _class_names(paths[0].parent, items), left_out)


def _items(shard: Shard) -> Iterator[Item]:
    """The index holds no names, and the name says what the bytes are. Of a raw image it holds the pixels, which end where the file does."""
    path = str(shard.path)
    with open(path, "rb") as file:
        members = [item for item in tar.walk(file, shard.record.bytes) if isinstance(item, tar.Member) and item.is_plain]
    by_end = {member.offset + member.bytes: member for member in members}
    for row in shard.load_index():
        member = by_end[int(row["offset"]) + int(row["bytes"])]
        label = None if row["label"] == NO_LABEL else int(row["label"])
        yield Item(path_inside(path, member.name), FileRange(path, member.offset, member.bytes), label)


def _class_names(directory: Path, items: Sequence[Item]) -> list[str] | None:
    """What an earlier pack wrote beside the shards, or above the two parts of a set."""
    path = names_file(directory)
    if path is None:
        return None
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"SRC has {path}, which cannot be read ({error}); mend it or take it away.") from None
    num_classes = max((item.label + 1 for item in items if item.label is not None), default=0)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) < num_classes:
        raise InputError(f"SRC has {path}, which is no list of the names of {num_classes} classes; mend it or take it away.")
    return names
