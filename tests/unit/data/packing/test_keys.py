"""Keys that webdataset reads back, all different, and what is decided by them."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.data.packing.keys import keys_for_test, safe_key, shuffled, unique_keys
from distgan.data.writer import tar_blocks, tar_end
from tests.shards import read_webdataset


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.png", "a"),
        ("a/b.c.jpg", "a/b_c"),
        ("v1.0/b.png", "v1.0/b"),
        ("a/b", "a/b"),
        ("__MACOSX__/a.png", "_MACOSX__/a"),
        ("___x__/a.png", "_x__/a"),
        ("__a__.png", "__a__"),
        ("line\nbreak/a\tb.png", "line_break/a_b"),
        ("bytes\udcff.png", "bytes_"),
        ("Kätzchen/été 1.png", "Kätzchen/été 1"),
    ],
)
def test_keys_of_names(name: str, key: str) -> None:
    assert safe_key(name) == key


NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_webdataset_reads_every_key_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """Whatever a file is called: nothing is passed over, cut or joined."""
    names = [f"{name}x.png" for name in names if ".." not in name.split("/") and "\0" not in name]
    keys = unique_keys(names)
    path: Path = tmp_path_factory.mktemp("keys") / "x.tar"
    blocks = b"".join(tar_blocks(key, {"png": b"x", "cls": b"0"}) for key in keys)
    path.write_bytes(blocks + tar_end(len(blocks)))
    if keys:
        assert [sample["__key__"] for sample in read_webdataset(path)] == keys


@given(
    st.lists(st.sampled_from(["a.png", "a.jpg", "a.b.png", "a_b.png", "a_2.png", "a_2.jpg", "a_3.png", "a_2_2.png"]), unique=True),
    st.randoms(),
)
def test_keys_are_different_and_do_not_depend_on_the_order(names: list[str], random: Random) -> None:
    keys = dict(zip(names, unique_keys(names), strict=True))
    assert len(set(keys.values())) == len(names)
    again = list(names)
    random.shuffle(again)
    assert dict(zip(again, unique_keys(again), strict=True)) == keys


def test_of_names_with_one_key_the_first_keeps_it() -> None:
    assert unique_keys(["a.png", "a.jpg", "a_2.png", "a.webp"]) == ["a_3", "a", "a_2", "a_4"]
    assert unique_keys(["x/0.png", "y/0.png"]) == ["x/0", "y/0"]
    assert unique_keys(["same.png", "same.png"]) == ["same", "same_2"]


def test_shuffling_is_a_fixed_permutation_that_mixes() -> None:
    keys = [f"{name}/{number:04d}" for name in ("cat", "dog") for number in range(500)]
    order = shuffled(keys, str)
    assert sorted(order) == keys
    assert shuffled(reversed(keys), str) == order
    runs = sum(one[:3] != other[:3] for one, other in pairwise(order))
    assert 440 < runs < 560  # 499.5 of 999 neighbours differ, give or take 3.8 standard deviations of 15.8


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_test_part_has_its_share_of_each_class(share: float) -> None:
    labels = {f"{number:05d}": label for number, label in enumerate([0] * 200 + [1] * 50 + [2] * 7 + [None] * 20)}
    chosen = keys_for_test(labels, share)
    counts = Counter(labels[key] for key in chosen)
    assert counts == {label: int(size * share + 0.5) for label, size in [(0, 200), (1, 50), (2, 7), (None, 20)]}
    assert chosen != set(sorted(labels)[: len(chosen)])


def test_no_class_is_in_the_test_part_alone() -> None:
    labels = {f"{number}": label for number, label in enumerate([0, 1, 1, 2, 2, 2])}
    assert Counter(labels[key] for key in keys_for_test(labels, 0.9)) == {1: 1, 2: 2}


def test_the_test_part_stays_when_images_are_added() -> None:
    labels: dict[str, int | None] = {f"{number:05d}": 0 for number in range(1000)}
    before = keys_for_test(labels, 0.1)
    after = keys_for_test(labels | {f"{number:05d}": 0 for number in range(1000, 1100)}, 0.1)
    assert len(before & after) > 75  # of 100; chance alone would leave 10
