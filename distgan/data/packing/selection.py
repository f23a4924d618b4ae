"""From the items of a source to what is packed, in order: labels mapped, parts chosen, keys made."""

from dataclasses import dataclass, replace

from distgan.data.packing.items import Item, LeftOut, Source
from distgan.data.packing.keys import keys_for_test, shuffled, unique_keys
from distgan.data.packing.labels import map_labels
from distgan.data.packing.options import PackOptions
from distgan.errors import InputError


@dataclass(frozen=True, slots=True)
class Work:
    """One sample that is to be packed."""

    key: str
    item: Item


@dataclass(frozen=True)
class Part:
    """The samples of one directory of shards in their order; `name` is "train" or "test", or "" where there is only one."""

    name: str
    works: list[Work]


def select(source: Source, options: PackOptions, new_labels: dict[str, int] | None) -> tuple[list[Part], Source]:
    """The parts that are written, and the source with its labels mapped.

    Raises:
        InputError: a part is asked for that is not there, or would be empty.
    """
    if new_labels is not None:
        source = map_labels(source, new_labels)
    parts = _divided(_chosen(source, options), options)
    empty = next((part for part in parts if not part.works), None)
    if empty is not None:
        raise InputError(f"SRC leaves nothing for the part {empty.name or 'train'!r}; change --split, --test-share or --labels.")
    return [Part(part.name, _ordered(part.works, options.order)) for part in parts], source


def left_out_parts(source: Source, options: PackOptions) -> list[LeftOut]:
    """A line for a part that the source has and the options leave."""
    wanted = ("train", "test") if options.split == "both" else (options.split or "train",)
    return [
        LeftOut(f"the {name} part", f"{len(items)} images; --split both packs it, too")
        for name, items in source.parts.items()
        if name not in wanted
    ]


def _chosen(source: Source, options: PackOptions) -> list[Part]:
    has_test = bool(source.parts.get("test"))
    if options.split in ("test", "both") and not has_test:
        raise InputError(f"--split is {options.split!r}, but SRC has no test part of its own; take --test-share 0.1 instead.")
    if options.test_share is not None and has_test and options.split is None:
        raise InputError(
            "--test-share is given, but SRC has a test part of its own; take --split both instead, or add --split train to divide "
            "the training part."
        )
    if options.split == "both":
        return [Part(name, _works(source.parts[name])) for name in ("train", "test")]
    return [Part("", _works(source.parts[options.split or "train"]))]


def _works(items: list[Item]) -> list[Work]:
    return [Work(key, item) for key, item in zip(unique_keys([item.name for item in items]), items, strict=True)]


def _divided(parts: list[Part], options: PackOptions) -> list[Part]:
    if options.test_share is None:
        return parts
    (whole,) = parts
    test = keys_for_test({work.key: work.item.label for work in whole.works}, options.test_share)
    return [
        replace(whole, name="train", works=[work for work in whole.works if work.key not in test]),
        replace(whole, name="test", works=[work for work in whole.works if work.key in test]),
    ]


def _ordered(works: list[Work], order: str) -> list[Work]:
    return shuffled(works, lambda work: work.key) if order == "shuffled" else sorted(works, key=lambda work: (work.item.name, work.key))
