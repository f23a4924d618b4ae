"""The manifest: made on first use, kept while the shards stay what they are, and a hash that names their content."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distgan.data.shards import index, local_shards, records
from distgan.data.shards.damage import DamagePolicy
from distgan.data.shards.index import index_path
from distgan.data.shards.local_shards import forget_missing, recorded
from distgan.data.shards.manifest import Manifest, index_shards, open_manifest
from distgan.data.shards.records import is_consistent
from distgan.data.shards.urls import resolve
from distgan.errors import InputError
from tests.shards import encode, member_offsets, noise, read_tar, sample_members, write_set, write_tar


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three shards of 3, 5 and 2 samples, 0000.tar to 0002.tar."""
    write_set(tmp_path / "shards", [3, 5, 2])
    return (tmp_path / "shards").resolve()


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were read from end to end so far."""
    names = []
    original = index.index_shard

    def spy(shard: Path, index_directory: Path) -> index.ShardRecord:
        names.append(shard.name)
        return original(shard, index_directory)

    monkeypatch.setattr(index, "index_shard", spy)
    return names


def open_(directory: Path, pattern: str = "") -> Manifest:
    return open_manifest(resolve(str(directory / pattern)))


def replace_shard(path: Path, first_number: int) -> None:
    """Put another shard of the same size in its place, with a newer time."""
    before = path.stat()
    write_tar(path, same_size_members(first_number))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**10))


def same_size_members(first_number: int) -> list[tuple[str, bytes]]:
    """Three samples as uncompressed images, so that every such shard is of one size."""
    return [(f"{number:06d}.bmp", encode(noise(number), "bmp")) for number in range(first_number, first_number + 3)]


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of everything that is there."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_shards_are_indexed_on_first_use(directory: Path, indexed: list[str]) -> None:
    opened = open_(directory)
    assert sorted(indexed) == ["0000.tar", "0001.tar", "0002.tar"]
    assert [shard.path for shard in opened.shards] == [directory / name for name in ["0000.tar", "0001.tar", "0002.tar"]]
    assert [shard.record.num_samples for shard in opened.shards] == [3, 5, 2]
    assert (opened.num_samples, opened.num_classes, opened.channels) == (10, 10, 1)
    for shard in opened.shards:
        assert shard.load_index()["label"].tolist() == [sample.label for sample in read_tar(shard.path)]


def test_what_lies_beside_the_shards(directory: Path) -> None:
    opened = open_(directory)
    assert {path.name for path in directory.iterdir()} == {
        *(f"{number:04d}.tar{end}" for number in range(3) for end in ("", ".index")),
        "manifest.json",
        "shards.jsonl",
        ".manifest.lock",
    }
    totals = json.loads((directory / "manifest.json").read_text())
    assert totals["version"] == records.VERSION
    assert totals["hash"] == opened.hash
    assert (totals["num_shards"], totals["num_samples"], totals["num_classes"]) == (3, 10, 10)
    assert totals["bytes"] == sum(path.stat().st_size for path in directory.glob("*.tar"))
    lines = [json.loads(line) for line in (directory / "shards.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0000.tar", "0001.tar", "0002.tar"]
    assert [line["num_samples"] for line in lines] == [3, 5, 2]


def test_a_second_use_writes_nothing(directory: Path, indexed: list[str]) -> None:
    first, before = open_(directory), files(directory)
    indexed.clear()
    second = open_(directory)
    assert indexed == []
    assert files(directory) == before
    assert second == first


def test_the_hash_names_content_and_order_but_not_the_place(directory: Path, tmp_path: Path) -> None:
    opened = open_(directory)
    write_set(tmp_path / "elsewhere", [3, 5, 2])
    assert open_(tmp_path / "elsewhere").hash == opened.hash
    backwards = open_manifest(list(reversed(resolve(str(directory)))))
    assert backwards.hash != opened.hash
    assert [shard.record.num_samples for shard in backwards.shards] == [2, 5, 3]
    assert open_(directory, "000{0,1}.tar").hash != opened.hash
    write_set(tmp_path / "other", [3, 5, 3])
    assert open_(tmp_path / "other").hash != opened.hash


def test_the_scheme_of_the_hash_has_not_changed(tmp_path: Path) -> None:
    """A run that resumes relies on it; these bytes depend on no encoder."""
    write_tar(tmp_path / "a.tar", [("0.pgm", b"P5 2 2 255\n\0\1\2\3"), ("0.cls", b"1")])
    assert open_(tmp_path).hash == "fab1f6bd1c22e0c8f0d3ba536e005584697365651f2e74f7aa0df72ee3367a30"


def test_a_shard_of_another_size_is_indexed_anew(directory: Path, indexed: list[str]) -> None:
    before = open_(directory)
    indexed.clear()
    write_tar(directory / "0001.tar", sample_members(range(20, 40)))
    os.utime(directory / "0001.tar", (0, 0))  # as a copy that keeps an old time
    after = open_(directory)
    assert indexed == ["0001.tar"]
    assert after.hash != before.hash
    assert [shard.record.num_samples for shard in after.shards] == [3, 20, 2]
    assert after.shards[1].load_index()["label"].tolist() == [number % 10 for number in range(20, 40)]
    assert open_(directory) == after
    assert json.loads((directory / "manifest.json").read_text())["hash"] == after.hash


def test_a_shard_of_the_same_size_and_another_time_is_indexed_anew(directory: Path, indexed: list[str]) -> None:
    path = write_tar(directory / "0000.tar", same_size_members(0))
    before = open_(directory)
    old_crc32s = before.shards[0].load_index()["crc32"].tolist()
    indexed.clear()
    replace_shard(path, first_number=50)
    after = open_(directory)
    assert indexed == ["0000.tar"]
    assert after.hash != before.hash
    assert after.shards[0].record.sha256 == index.sha256_of(path)
    assert after.shards[0].load_index()["crc32"].tolist() != old_crc32s


def test_a_touched_shard_is_not_indexed_anew(directory: Path, indexed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy with a newer time: its checksum is compared once, and not again."""
    before, inodes = open_(directory), {name: inode for name, (inode, _) in files(directory).items()}
    indexed.clear()
    summed = []
    original = index.sha256_of
    monkeypatch.setattr(index, "sha256_of", lambda path: summed.append(path.name) or original(path))
    hour_ago = time.time() - 3600
    for path in directory.iterdir():
        os.utime(path, (hour_ago, hour_ago))
    (directory / "0001.tar").touch()
    for _ in range(2):
        assert open_(directory) == before
    assert indexed == []
    assert summed == ["0001.tar"]
    assert {name: inode for name, (inode, _) in files(directory).items()} == inodes


def test_a_missing_index_is_made_again(directory: Path, indexed: list[str]) -> None:
    before = open_(directory)
    indexed.clear()
    index_path(directory / "0002.tar", directory).unlink()
    assert open_(directory) == before
    assert indexed == ["0002.tar"]


@pytest.mark.parametrize("num_bytes", [0, 100, -1], ids=["empty", "half", "a byte short"])
def test_an_index_cut_short_is_made_again(directory: Path, indexed: list[str], num_bytes: int) -> None:
    before = open_(directory)
    indexed.clear()
    index_file = index_path(directory / "0002.tar", directory)
    content = index_file.read_bytes()
    index_file.write_bytes(content[:num_bytes])
    assert open_(directory) == before
    assert indexed == ["0002.tar"]
    assert index_file.read_bytes() == content


def test_a_directory_grows(directory: Path, indexed: list[str]) -> None:
    before = open_(directory)
    indexed.clear()
    write_tar(directory / "0003.tar", sample_members(range(10, 14)))
    after = open_(directory)
    assert indexed == ["0003.tar"]
    assert after.shards[:3] == before.shards
    assert after.num_samples == 14
    assert after.hash != before.hash


def test_a_removed_shard_leaves_the_totals(directory: Path) -> None:
    open_(directory)
    (directory / "0001.tar").unlink()
    write_tar(directory / "0003.tar", sample_members(range(10, 14)))
    after = open_(directory)
    assert after.num_samples == 9
    totals = json.loads((directory / "manifest.json").read_text())
    assert (totals["num_samples"], totals["num_shards"], totals["hash"]) == (9, 3, after.hash)


def test_patterns_share_the_manifest_of_the_directory(directory: Path, indexed: list[str]) -> None:
    some = open_(directory, "000{2,0}.tar")
    assert sorted(indexed) == ["0000.tar", "0002.tar"]
    assert [shard.path.name for shard in some.shards] == ["0002.tar", "0000.tar"]
    whole = open_(directory)
    assert sorted(indexed) == ["0000.tar", "0001.tar", "0002.tar"]
    assert set(some.shards) < set(whole.shards)
    assert open_(directory, "000{2,0}.tar") == some
    assert len(indexed) == 3


def test_shards_of_several_directories(directory: Path, tmp_path: Path) -> None:
    """Names may be the same in both."""
    write_set(tmp_path / "more", [4, 1])
    opened = open_manifest([*resolve(str(tmp_path / "more")), *resolve(str(directory))])
    assert [shard.record.num_samples for shard in opened.shards] == [4, 1, 3, 5, 2]
    assert [len(shard.load_index()) for shard in opened.shards] == [4, 1, 3, 5, 2]


def test_a_damaged_shard_is_named_every_time(directory: Path, indexed: list[str]) -> None:
    """But read once."""
    whole = (directory / "0001.tar").read_bytes()
    (directory / "0001.tar").write_bytes(whole[:5000])
    for _ in range(2):
        with pytest.raises(InputError, match=r"0001\.tar .* cut short(.|\n)*set data\.on_error to skip"):
            open_(directory)
    assert len(indexed) == 3
    (directory / "0001.tar").write_bytes(whole)
    assert open_(directory).num_samples == 10


def test_a_damaged_shard_is_read_as_far_as_it_goes_where_that_is_allowed(directory: Path) -> None:
    """The rest is counted, and told."""
    cut = member_offsets(directory / "0001.tar")["000006.png"][1] + 100
    os.truncate(directory / "0001.tar", cut)
    opened = open_manifest(resolve(str(directory)), DamagePolicy(skip=True, max_skipped_share=0.4))
    assert opened.shards[1].load_keys() == ["000003", "000004", "000005"]
    assert opened.num_samples == 8
    assert opened.num_damaged == 2  # the sample at the cut, and one at least behind it
    assert [skip.key for skip in opened.skips] == ["", "000006"]
    with pytest.raises(InputError, match=r"2 of 10 samples are damaged, more than data\.max_skipped_share 0\.1 allows"):
        open_manifest(resolve(str(directory)), DamagePolicy(skip=True, max_skipped_share=0.1))


def test_a_shard_of_which_nothing_can_be_read_keeps_no_other_from_being_indexed(directory: Path, indexed: list[str]) -> None:
    (directory / "0001.tar").write_bytes(b"no tar" * 1000)
    (directory / "0003.tar").write_bytes(b"")
    opened = index_shards(resolve(str(directory)))
    assert [shard.path.name for shard in opened.shards] == ["0000.tar", "0002.tar"]
    assert [shard.path.name for shard in opened.unreadable] == ["0001.tar", "0003.tar"]
    with pytest.raises(InputError, match=r"0001\.tar is not a readable tar"):
        open_(directory)
    assert indexed.count("0000.tar") == indexed.count("0002.tar") == 1


def test_what_is_recorded_is_told_without_looking_at_the_shards(directory: Path, indexed: list[str]) -> None:
    assert recorded(directory) == []
    opened = open_(directory)
    indexed.clear()
    (directory / "0000.tar").write_bytes(b"other")
    (directory / "0001.tar").unlink()
    before = files(directory)
    assert recorded(directory) == list(opened.shards)
    assert indexed == []
    assert files(directory) == before


def test_what_is_gone_can_be_forgotten(directory: Path, indexed: list[str]) -> None:
    opened = open_(directory)
    indexed.clear()
    assert forget_missing(directory, directory) == []
    (directory / "0001.tar").unlink()
    assert forget_missing(directory, directory) == [directory / "0001.tar"]
    assert recorded(directory) == [opened.shards[0], opened.shards[2]]
    assert json.loads((directory / "manifest.json").read_text())["num_samples"] == 5
    assert indexed == []


@pytest.mark.parametrize("field", ["name", "bytes", "sha256", "num_samples"])
def test_a_record_that_was_changed_does_not_agree_with_the_hash(directory: Path, field: str) -> None:
    open_(directory)
    assert is_consistent(directory)
    lines = [json.loads(line) for line in (directory / "shards.jsonl").read_text().splitlines()]
    lines[1][field] = lines[1][field] * 2
    (directory / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not is_consistent(directory)


def test_a_record_of_a_shard_that_has_changed_is_not_kept(directory: Path) -> None:
    """Two shards are replaced, and indexing stops at the second (as it would at a crash): the first must not keep its old record."""
    first = write_tar(directory / "0000.tar", same_size_members(0))
    second, whole = directory / "0001.tar", (directory / "0001.tar").read_bytes()
    before = open_(directory)
    replace_shard(first, first_number=50)
    os.utime(first)
    second.write_bytes(b"no tar" * 1000)
    with pytest.raises(InputError, match=r"0001\.tar"):
        open_(directory)
    second.write_bytes(whole)
    after = open_(directory)
    assert after.shards[0].record.sha256 == index.sha256_of(first)
    assert after.hash != before.hash


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("manifest.json", "{}"),
        ("manifest.json", "null"),
        ("manifest.json", "\udcff"),
        ("shards.jsonl", '{"name": "0000.tar"\n'),
        ("shards.jsonl", '{"name": "0000.tar"}\n'),
        ("shards.jsonl", "[1]\n"),
        ("shards.jsonl", "7\n"),
    ],
    ids=lambda text: ascii(text)[1:-1],
)
def test_a_manifest_that_cannot_be_read_is_refused(directory: Path, name: str, content: str) -> None:
    open_(directory)
    (directory / name).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match="cannot be read") as caught:
        open_(directory)
    assert str(directory) in str(caught.value)
    (directory / "manifest.json").unlink()  # the mend that the sentence names
    assert open_(directory).num_samples == 10


def test_a_manifest_of_another_version_is_made_anew(directory: Path, indexed: list[str]) -> None:
    before = open_(directory)
    indexed.clear()
    totals = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**totals, "version": records.VERSION + 1}))
    (directory / "shards.jsonl").write_text('{"unknown": 1}\n')
    assert open_(directory) == before
    assert len(indexed) == 3


def test_where_nothing_can_be_written_the_index_goes_to_the_cache(
    directory: Path, user_cache: Path, indexed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(directory)
    monkeypatch.setattr(local_shards.os, "access", lambda path, mode: not (Path(path) == directory and mode == os.W_OK))
    opened = open_(directory)
    assert files(directory) == before
    assert all(shard.index_directory.is_relative_to(user_cache) for shard in opened.shards)
    assert [len(shard.load_index()) for shard in opened.shards] == [3, 5, 2]
    indexed.clear()
    assert open_(directory) == opened
    assert indexed == []
    monkeypatch.undo()
    assert open_(directory).hash == opened.hash


def test_a_manifest_beside_shards_that_cannot_be_written_is_used(
    directory: Path, indexed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that is mounted read-only: what was indexed before needs no second index in every container's cache."""
    before = open_(directory)
    indexed.clear()
    monkeypatch.setattr(local_shards.os, "access", lambda path, mode: not (Path(path) == directory and mode == os.W_OK))
    assert open_(directory) == before
    assert indexed == []


def test_a_lock_of_another_user_is_named(directory: Path) -> None:
    """A directory that many may write, with a lock that one of them made; here a directory, which root cannot open either."""
    (directory / ".manifest.lock").mkdir()
    with pytest.raises(InputError) as caught:
        open_(directory)
    assert str(directory) in str(caught.value)


def test_nowhere_to_write(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(local_shards.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="writable") as caught:
        open_(directory)
    assert str(directory) in str(caught.value)


CHILD = """
import sys
from pathlib import Path
from distgan.data.shards import index
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve

num_indexed = 0
original = index.index_shard

def spy(*arguments):
    global num_indexed
    num_indexed += 1
    return original(*arguments)

index.index_shard = spy
print("ready", flush=True)
sys.stdin.readline()
manifest = open_manifest(resolve(sys.argv[1]))
print(manifest.hash, sum(len(shard.load_index()) for shard in manifest.shards), num_indexed)
"""


def test_four_processes_at_once_index_once(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_set(shards, [25] * 12)
    command = [sys.executable, "-c", CHILD, str(shards)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    results = [child.communicate(timeout=30)[0].split() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    opened = open_(shards)
    assert {(hash_, number) for hash_, number, _ in results} == {(opened.hash, "300")}
    assert sum(int(num_indexed) for _, _, num_indexed in results) == 12


def test_records_are_values(directory: Path) -> None:
    """Two manifests are equal when all that they say is."""
    opened = open_(directory)
    other = replace(opened.shards[0], record=replace(opened.shards[0].record, num_samples=4))
    assert replace(opened, shards=(other, *opened.shards[1:])) != opened
