"""Results -> shards, one after the other: each is written aside, flushed, renamed, and then noted in the journal."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from distgan.data.packing import journal
from distgan.data.packing.items import LeftOut
from distgan.data.packing.journal import ShardLine
from distgan.data.packing.options import PackOptions
from distgan.data.packing.selection import Part
from distgan.data.packing.transform import Recipe
from distgan.data.packing.workers import Packed, pack_all
from distgan.data.writer import tar_end
from distgan.errors import InputError
from distgan.files import sync_directory


def write_part(
    part: Part,
    done: Sequence[ShardLine],
    staging: Path,
    scratch: Path,
    recipe: Recipe,
    options: PackOptions,
    stop: Callable[[], bool],
) -> list[ShardLine]:
    """Write what of a part is not done yet; returns the lines of all its shards.

    Args:
        scratch: a directory for what is needed on the way only.

    Raises:
        InputError: no image can be read, or one cannot and --on-error is fail.
        KeyboardInterrupt: `stop` said so.
    """
    lines = list(done)
    works = part.works[lines[-1].next :] if lines else part.works
    start = len(part.works) - len(works)
    if not works:
        return lines
    shard = _OpenShard(staging, part.name, len(lines))
    scratch.mkdir(exist_ok=True)
    # disable=None: no bar where nobody watches
    bar = tqdm(total=len(part.works), initial=start, desc=f"packing {part.name}".strip(), unit="image", disable=None)
    with (
        tempfile.TemporaryDirectory(dir=scratch) as between,
        closing(pack_all(works, recipe, options.workers, Path(between))) as results,
        bar,
    ):
        for position, (work, result) in enumerate(zip(works, results, strict=True), start):
            if stop():
                raise KeyboardInterrupt
            bar.update()
            if isinstance(result, str):
                if options.on_error == "fail":
                    raise InputError(f"SRC has {work.item.name!r}, which {result}; mend it, or add --on-error skip.")
                shard.left_out.append(LeftOut(work.item.name, result))
                continue
            if not shard.has_room_for(len(result.blocks), options):
                lines.append(shard.finish(position))
                shard = _OpenShard(staging, part.name, len(lines))
            shard.add(result, work.item.label)
    if not shard.num_samples:
        first = shard.left_out[0]
        raise InputError(f"SRC has no image that can be packed ({first.name!r} {first.reason}); mend it or give another source.")
    lines.append(shard.finish(len(part.works)))
    return lines


class _OpenShard:
    """The shard that is being written, and what is counted of it."""

    def __init__(self, staging: Path, part: str, number: int) -> None:
        self._staging, self._part, self._name = staging, part, f"{number:06d}.tar"
        directory = staging / part
        directory.mkdir(exist_ok=True)
        self._aside = directory / f".{self._name}.tmp"
        self._file = open(self._aside, "wb")  # noqa: SIM115
        self._labels: Counter[int | None] = Counter()
        self._sides: list[int] = []
        self._num_not_square = 0
        self._channels = 1
        self.num_samples = 0
        self.left_out: list[LeftOut] = []

    def has_room_for(self, num_bytes: int, options: PackOptions) -> bool:
        """Whether a sample of so many bytes still fits; an empty shard takes any."""
        total_bytes = self._file.tell() + num_bytes
        fits = total_bytes + len(tar_end(total_bytes)) <= options.shard_bytes
        return not self.num_samples or (fits and self.num_samples < (options.shard_samples or self.num_samples + 1))

    def add(self, packed: Packed, label: int | None) -> None:
        """Write a sample."""
        self._file.write(packed.blocks)
        self._labels[label] += 1
        self._sides = [min([*self._sides, packed.width, packed.height]), max([*self._sides, packed.width, packed.height])]
        self._num_not_square += packed.width != packed.height
        self._channels = max(self._channels, packed.channels)
        self.num_samples += 1

    def finish(self, next_position: int) -> ShardLine:
        """End the tar, make it last, give it its name and note it; the next shard begins with the work at `next_position`."""
        with self._file as file:
            file.write(tar_end(file.tell()))
            file.flush()
            os.fsync(file.fileno())
            num_bytes = file.tell()
        os.replace(self._aside, self._aside.with_name(self._name))
        sync_directory(self._aside.parent)
        line = ShardLine(
            part=self._part,
            name=self._name,
            next=next_position,
            bytes=num_bytes,
            num_samples=self.num_samples,
            labels=sorted(self._labels.items(), key=lambda item: -1 if item[0] is None else item[0]),
            left_out=self.left_out,
            min_side=self._sides[0],
            max_side=self._sides[1],
            num_not_square=self._num_not_square,
            channels=self._channels,
        )
        journal.append(self._staging, line)
        return line
