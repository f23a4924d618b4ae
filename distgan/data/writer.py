"""Samples -> WebDataset tar shards: byte for byte what webdataset's own writer makes of them, the same every time."""

import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from distgan.files import sync_directory


@dataclass(frozen=True)
class Sample:
    """An image and its label (None: no label)."""

    key: str
    png: bytes
    label: int | None


def tar_blocks(key: str, members: Mapping[str, bytes]) -> bytes:
    """One sample as the blocks of a tar: a header and the padded content for each extension -> content, sorted by extension.

    A shard is any number of these, then `tar_end`: so its size is known before it is written, and samples can be made
    in other processes.
    """
    blocks = []
    for extension in sorted(members):
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(members[extension])
        header.mode, header.uname, header.gname = 0o444, "bigdata", "bigdata"  # as webdataset's TarWriter has them
        blocks += [header.tobuf(tarfile.PAX_FORMAT, "utf-8"), members[extension], bytes(-header.size % tarfile.BLOCKSIZE)]
    return b"".join(blocks)


def tar_end(num_bytes: int) -> bytes:
    """What ends a tar of so many bytes: two blocks of zeros, and more up to a whole record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(num_bytes + end) % tarfile.RECORDSIZE)


def label_member(label: int | None) -> dict[str, bytes]:
    """The member that holds a sample's label; none for None."""
    return {} if label is None else {"cls": str(label).encode()}


def write_shards(samples: Iterable[Sample], directory: Path, samples_per_shard: int) -> None:
    """Write `directory`/000000.tar, ... aside and rename the whole directory; it must not exist, or be empty."""
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that had this number before us
    aside.mkdir(parents=True)
    try:
        for shard, group in groupby(enumerate(samples), key=lambda item: item[0] // samples_per_shard):
            with open(aside / f"{shard:06d}.tar", "wb") as file:
                for _, sample in group:
                    file.write(tar_blocks(sample.key, {"png": sample.png} | label_member(sample.label)))
                file.write(tar_end(file.tell()))
                file.flush()
                os.fsync(file.fileno())
        sync_directory(aside)
        os.rename(aside, directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
