"""Keys of samples: made of the names in the source, safe for WebDataset, and what orders and divides a set."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

# webdataset passes over what lies in a folder of this kind without a word.
_META_FOLDER = re.compile(r"__[^/]*__/")
_Item = TypeVar("_Item")


def safe_key(name: str) -> str:
    """A name without its extension, such that webdataset reads the same key back: 'a/b.1.png' -> 'a/b_1'.

    A key ends at the first dot of its last part, so dots become '_' there; so does everywhere what cannot be printed (a line break
    ends webdataset's search for the key).
    """
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    key = "".join(character if character.isprintable() else "_" for character in folder + slash + stem.replace(".", "_"))
    return "_" + key.lstrip("_") if _META_FOLDER.match(key) else key


def unique_keys(names: Sequence[str]) -> list[str]:
    """The key of each name, all different: of names with one key the first in order of the names keeps it, the others get _2, _3, ..."""
    keys = [safe_key(name) for name in names]
    taken = set(keys)
    if len(taken) == len(keys):
        return keys
    seen: set[str] = set()
    for place in sorted(range(len(names)), key=lambda place: (names[place], place)):
        key, number = keys[place], 2
        if key in seen:
            while f"{key}_{number}" in taken:
                number += 1
            keys[place] = f"{key}_{number}"
            taken.add(keys[place])
        seen.add(keys[place])
    return keys


def digest(purpose: str, key: str) -> bytes:
    """64 bits that depend on both and look random."""
    return hashlib.blake2b(f"{purpose}\0{key}".encode(), digest_size=8).digest()


def shuffled(items: Iterable[_Item], key_of: Callable[[_Item], str]) -> list[_Item]:
    """In an order that only the keys decide."""
    return sorted(items, key=lambda item: (digest("order", key_of(item)), key_of(item)))


def keys_for_test(labels_by_key: dict[str, int | None], share: float) -> set[str]:
    """The keys of the test part: of each label the share that comes first by a hash of the key, rounded, but never all."""
    by_label: dict[int | None, list[str]] = {}
    for key, label in labels_by_key.items():
        by_label.setdefault(label, []).append(key)
    chosen: set[str] = set()
    for keys in by_label.values():
        keys.sort(key=lambda key: (digest("test", key), key))
        chosen.update(keys[: min(int(len(keys) * share + 0.5), len(keys) - 1)])
    return chosen
