"""The manifest as a run asks it: what may be skipped, image sizes, channels, labels."""

import os
from pathlib import Path

import pytest

from distgan.data.shards.damage import DamagePolicy
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.urls import resolve
from distgan.errors import InputError
from tests.shards import encode, member_offsets, noise, sample_members, write_set, write_tar


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three shards of 3, 5 and 2 samples, 0000.tar to 0002.tar."""
    write_set(tmp_path / "shards", [3, 5, 2])
    return (tmp_path / "shards").resolve()


def open_(directory: Path, pattern: str = "") -> Manifest:
    return open_manifest(resolve(str(directory / pattern)))


SKIP = DamagePolicy(skip=True, max_skipped_share=0.9)


@pytest.mark.parametrize(
    ("content", "words", "num_damaged"),
    [
        (bytes(10240), "is a tar without any file", 1),
        (b"", "is an empty file", 5),  # as many as the largest of the others holds
        (b"no tar" * 1000, "is not a readable tar", 5),
        (b"\x1f\x8b" + bytes(1000), "is compressed", 5),
        (b"PK\x03\x04" + bytes(1000), "may be a source for one: python -m distgan.data pack 0002.tar shards", 5),
    ],
    ids=["without a file", "of no bytes", "no tar", "compressed", "a zip"],
)
def test_a_shard_of_which_nothing_is_whole(directory: Path, content: bytes, words: str, num_damaged: int) -> None:
    (directory / "0002.tar").write_bytes(content)
    with pytest.raises(InputError, match=rf"0002\.tar .*{words}(.|\n)*set data\.on_error to skip"):
        open_(directory)
    opened = open_manifest(resolve(str(directory)), SKIP)
    assert [shard.path.name for shard in opened.shards] == ["0000.tar", "0001.tar"]
    assert [shard.path.name for shard in opened.unreadable] == ["0002.tar"]
    assert (opened.num_samples, opened.num_damaged, opened.image_size(None)) == (8, num_damaged, 8)
    assert words in opened.skips[0].reason
    assert open_manifest(resolve(str(directory)), SKIP) == opened


def test_nothing_but_unreadable_shards_is_refused(directory: Path) -> None:
    for shard in directory.glob("*.tar"):
        shard.write_bytes(b"no tar" * 1000)
    with pytest.raises(InputError, match="3 of 3 samples are damaged"):
        open_manifest(resolve(str(directory)), SKIP)
    with pytest.raises(InputError) as caught:
        open_(directory)
    assert "data.on_error" not in str(caught.value)  # there is nothing to go on with


def test_a_cut_shard_has_lost_what_the_others_hold(tmp_path: Path) -> None:
    """It does not tell how much followed; one sample it would be by its own bytes. A short last shard makes it no less."""
    write_set(tmp_path, [20, 20, 20, 5])
    cut = member_offsets(tmp_path / "0001.tar")["000023.cls"][0]
    os.truncate(tmp_path / "0001.tar", cut)
    opened = open_manifest(resolve(str(tmp_path)), SKIP)
    assert (opened.num_samples, opened.num_damaged) == (48, 17)
    content = bytearray((tmp_path / "0002.tar").read_bytes())
    content[cut + 20] ^= 1  # in a header, in the middle of a shard: what follows is there
    (tmp_path / "0002.tar").write_bytes(content)
    opened = open_manifest(resolve(str(tmp_path)), SKIP)
    assert opened.num_samples == 47
    assert 1 <= opened.shards[2].record.num_damaged <= 2


def test_of_many_damages_the_first_are_named(directory: Path) -> None:
    members = [(f"{number:06d}.png", encode(noise(number))[: None if number % 2 else 30]) for number in range(40)]
    write_tar(directory / "0001.tar", members)
    with pytest.raises(InputError) as caught:
        open_(directory)
    assert sum("not a readable image" in problem for problem in caught.value.problems) == 5
    assert "in 15 more places" in str(caught.value)


def image_set(directory: Path, *sizes: tuple[int, int]) -> Manifest:
    """A shard for each (height, width)."""
    directory.mkdir()
    for number, (height, width) in enumerate(sizes):
        write_tar(directory / f"{number}.tar", [(f"{number}.png", encode(noise(number, height, width)))])
    return open_(directory)


def test_the_image_size_is_what_all_images_share(tmp_path: Path) -> None:
    opened = image_set(tmp_path / "same", (8, 8), (8, 8))
    assert opened.image_size(None) == 8
    assert opened.image_size(32) == 32


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([(8, 8), (9, 9)], "different sizes (sides of 8 to 9 pixels)"),
        ([(8, 6)], "not one square (sides of 6 to 8 pixels)"),
        ([(8, 6), (6, 8)], "not one square (sides of 6 to 8 pixels)"),
    ],
    ids=["mixed", "not square", "turned"],
)
def test_images_of_several_sizes_need_a_resolution(tmp_path: Path, sizes: list[tuple[int, int]], words: str) -> None:
    opened = image_set(tmp_path / "set", *sizes)
    with pytest.raises(InputError) as caught:
        opened.image_size(None)
    assert words in str(caught.value)
    assert "set data.resolution" in str(caught.value)
    assert opened.image_size(16) == 16


def test_one_image_in_colour_makes_a_set_of_colour(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", sample_members(range(3)))
    write_tar(tmp_path / "1.tar", [("a.png", encode(noise(0))), ("b.png", encode(noise(1, channels=3)))])
    assert open_(tmp_path).channels == 3
    assert open_(tmp_path, "0.tar").channels == 1


def test_a_sample_without_a_label_is_named(directory: Path) -> None:
    open_(directory).check_labels()
    members = [member for member in sample_members(range(4)) if member[0] not in ("000002.cls", "000003.cls")]
    write_tar(directory / "0001.tar", members)
    with pytest.raises(InputError, match=r"sample '000002' of .*0001\.tar has no label") as caught:
        open_(directory).check_labels()
    assert "model.conditional" in str(caught.value)


def test_samples_without_a_label_are_held_against_the_budget(directory: Path) -> None:
    write_tar(directory / "0001.tar", [member for member in sample_members(range(5)) if member[0] not in ("000002.cls", "000003.cls")])
    open_(directory).check_labels(policy=DamagePolicy(skip=True, max_skipped_share=0.2))
    with pytest.raises(InputError, match=r"sample '000002' .* has no label \(\.cls\) \(2 of 10 samples are without one or damaged"):
        open_(directory).check_labels(policy=DamagePolicy(skip=True, max_skipped_share=0.19))


def test_labels_beyond_the_classes_are_held_against_the_budget(directory: Path) -> None:
    """With those that are missing."""
    members = [("a.png", encode(noise(0))), ("b.png", encode(noise(1))), ("b.cls", b"7"), ("c.png", encode(noise(2))), ("c.cls", b"1000")]
    write_tar(directory / "0001.tar", members)
    opened = open_(directory)
    opened.check_classes(1001)
    for policy in (DamagePolicy(), DamagePolicy(skip=True, max_skipped_share=0.24)):
        with pytest.raises(InputError, match=r"data\.num_classes is 10, but the sample 'c' of .*0001\.tar has the label 1000"):
            opened.check_classes(10, policy)
    opened.check_classes(10, DamagePolicy(skip=True, max_skipped_share=0.25))
