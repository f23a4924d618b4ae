"""Shards and their order: limits, the tar to the byte, going on after a death, one packer at a time."""

import json
import os
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from webdataset.writer import TarWriter

from distgan.data.__main__ import main
from distgan.data.packing import command, journal, shards, workers
from distgan.data.packing.items import FileRange, Item
from distgan.data.packing.selection import Work
from distgan.data.packing.transform import Recipe
from distgan.data.writer import tar_blocks, tar_end
from distgan.files import locked
from tests.packing import class_files, contents, left_out, pack, refusal, report, samples, write_files
from tests.shards import encode, noise, read_webdataset


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three classes of 20 images, and two files that cannot be read."""
    return write_files(tmp_path / "photos", {**class_files(20), "cat/broken.png": b"x", "dog/broken.png": b"y"})


def test_blocks_are_those_of_webdatasets_writer(tmp_path: Path) -> None:
    """To the byte: plain, long and accented keys, odd lengths, several members."""
    made = [
        ("a/b", {"png": b"x" * 700, "cls": b"3"}),
        ("k" * 150, {"jpg": b""}),
        ("été", {"npy": b"y" * 512, "cls": b"12"}),
        ("0", {"png": b"z" * 20_000}),
    ]
    with TarWriter(str(tmp_path / "x.tar"), mtime=0, encoder=False) as writer:
        for key, members in made:
            writer.write({"__key__": key, **members})
    blocks = b"".join(tar_blocks(key, members) for key, members in made)
    assert blocks + tar_end(len(blocks)) == (tmp_path / "x.tar").read_bytes()


def test_nothing_in_a_shard_depends_on_who_packs_it_when(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) == (0, 0, 0, "bigdata", "bigdata", 0o444)


def test_shuffled_shards_mix_the_classes_and_named_ones_do_not(source: Path, tmp_path: Path) -> None:
    mixed = pack(source, tmp_path / "mixed", "--shard-samples", 10)
    assert sorted(mixed) != list(mixed)
    for shard in sorted((tmp_path / "mixed").glob("*.tar")):
        assert len({sample["cls"] for sample in read_webdataset(shard)}) == 3
    named = pack(source, tmp_path / "named", "--order", "name")
    assert [f"{key}.png" for key in named] == sorted(class_files(20))
    assert {key: sample.content for key, sample in named.items()} == {key: sample.content for key, sample in mixed.items()}


@pytest.mark.parametrize("limit", [10_240, 20_480, 33_333])
def test_shards_are_as_large_as_they_may_be_and_no_larger(source: Path, tmp_path: Path, limit: int) -> None:
    pack(source, tmp_path / "out", "--shard-bytes", limit)
    paths = sorted((tmp_path / "out").glob("*.tar"))
    assert len(paths) > 3
    for path, following in pairwise(paths):
        used, first = sum(sizes(path)), sum(sizes(following)[:2])  # its label and its image would not have fitted
        assert path.stat().st_size <= limit
        assert -(-(used + first + 1024) // 10_240) * 10_240 > limit


def sizes(path: Path) -> list[int]:
    """What each member takes in a tar: a header, and its content in whole blocks."""
    with tarfile.open(path) as tar:
        return [512 + -(-member.size // 512) * 512 for member in tar]


def test_a_sample_that_is_larger_than_a_shard_has_one_of_its_own(source: Path, tmp_path: Path) -> None:
    assert len(pack(source, tmp_path / "out", "--shard-bytes", "1kB", "--shard-samples", 5)) == 60
    assert len(list((tmp_path / "out").glob("*.tar"))) == 60


def test_counts_of_the_report(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out", "--test-share", 0.1, "--shard-samples", 25)
    parts = report(tmp_path / "out")["parts"]
    for name, size in (("train", 18), ("test", 2)):
        packed = samples(tmp_path / "out" / name)
        by_label = {str(label): sum(sample.label == label for sample in packed.values()) for label in range(3)}
        assert parts[name]["num_samples_by_label"] == by_label
        assert by_label["0"] == size
        assert parts[name]["num_samples"] == len(packed)
        assert parts[name]["shards"] == {p.name: p.stat().st_size for p in (tmp_path / "out" / name).glob("*.tar")}
    assert samples(tmp_path / "out" / "train").keys().isdisjoint(samples(tmp_path / "out" / "test"))
    assert left_out(tmp_path / "out").keys() == {"cat/broken.png", "dog/broken.png"}


class DiedError(BaseException):
    """Stands for a death: nothing after it runs."""


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Makes a step die at its n-th call: 'rename' of a shard, 'journal', 'fsync', 'index', 'report', 'publish'; 0: not."""
    when: dict[str, int] = {}

    def dying(owner: object, name: str, step: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: object) -> object:
            when[step] = when.get(step, 0) - 1
            if when[step] == 0:
                raise DiedError
            return original(*arguments)

        monkeypatch.setattr(owner, name, call)

    dying(journal, "append", "journal")
    dying(shards, "sync_directory", "renamed")
    dying(command, "open_manifest", "index")
    dying(command.report, "write_report", "report")
    dying(command.journal, "remove", "publish")
    return when


@pytest.mark.parametrize(
    ("step", "call"), [("journal", 1), ("journal", 4), ("renamed", 3), ("index", 1), ("index", 2), ("report", 1), ("publish", 1)]
)
def test_after_a_death_the_same_command_makes_the_same_bytes(
    source: Path, tmp_path: Path, deaths: dict[str, int], step: str, call: int
) -> None:
    arguments = ["--shard-samples", 5, "--test-share", 0.25]
    pack(source, tmp_path / "whole", *arguments)
    deaths[step] = call
    with pytest.raises(DiedError):
        pack(source, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
    pack(source, tmp_path / "out", *arguments)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos", "whole"]


def test_what_is_done_is_not_done_again(source: Path, tmp_path: Path, deaths: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    deaths["journal"] = 5
    with pytest.raises(DiedError):
        pack(source, tmp_path / "out", "--shard-samples", 10)
    read = []
    original = workers._pack
    monkeypatch.setattr(workers, "_pack", lambda work, recipe: read.append(work.key) or original(work, recipe))
    packed = pack(source, tmp_path / "out", "--shard-samples", 10)
    assert set(list(packed)[40:]) <= set(read)
    assert set(list(packed)[:40]).isdisjoint(read)


def test_a_torn_line_of_the_journal_is_a_shard_that_is_not_done(source: Path, tmp_path: Path, deaths: dict[str, int]) -> None:
    pack(source, tmp_path / "whole", "--shard-samples", 10)
    deaths["journal"] = 4
    with pytest.raises(DiedError):
        pack(source, tmp_path / "out", "--shard-samples", 10)
    path = tmp_path / ".out.packing" / ".packing.jsonl"
    for cut in (1, 30):
        path.write_bytes(path.read_bytes()[:-cut])
        deaths["journal"] = 2
        with pytest.raises(DiedError):
            pack(source, tmp_path / "out", "--shard-samples", 10)
    pack(source, tmp_path / "out", "--shard-samples", 10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["option", "added", "touched", "pillow", "lost shard"])
def test_another_command_or_source_starts_over(
    source: Path, tmp_path: Path, deaths: dict[str, int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    deaths["journal"] = 4
    with pytest.raises(DiedError):
        pack(source, tmp_path / "out", "--shard-samples", 10)
    options: list[str | int] = ["--shard-samples", 10]
    if change == "option":
        options += ["--resolution", 4]
    elif change == "added":
        write_files(source, {"eel/0.png": encode(noise(7))})
    elif change == "touched":
        os.utime(source / "cat" / "0.png", (1, 1))
    elif change == "pillow":
        monkeypatch.setattr("PIL.__version__", "0.1")
    else:
        (tmp_path / ".out.packing" / "000001.tar").unlink()
    pack(source, tmp_path / "out", *options)
    pack(source, tmp_path / "whole", *options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_how_it_is_packed_does_not_matter_to_what_goes_on(source: Path, tmp_path: Path, deaths: dict[str, int]) -> None:
    """--workers and --on-error decide no byte."""
    deaths["journal"] = 4
    with pytest.raises(DiedError):
        pack(source, tmp_path / "out", "--shard-samples", 10, "--on-error", "skip")
    kept = (tmp_path / ".out.packing" / "000000.tar").stat().st_ino
    pack(source, tmp_path / "out", "--shard-samples", 10)
    assert (tmp_path / "out" / "000000.tar").stat().st_ino == kept


def test_a_result_is_known_and_other_things_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(source, tmp_path / "out")
    before = {path: path.stat() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main(["pack", str(source), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("This command has packed it already")
    assert {path: path.stat() for path in (tmp_path / "out").iterdir()} == before
    assert "made by another command" in refusal(capsys, source, tmp_path / "out", "--resolution", 4)
    os.utime(source / "cat" / "0.png", (1, 1))
    assert "another state of SRC" in refusal(capsys, source, tmp_path / "out")


def test_a_result_with_a_hole_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(source, tmp_path / "out")
    os.truncate(tmp_path / "out" / "000000.tar", 512)
    assert "missing or cut" in refusal(capsys, source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "directory", "link", "report"])
def test_what_is_there_is_never_overwritten(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        write_files(out, {"pack.json" if kind == "report" else "mine.txt": "mine"})
    assert "exists already" in refusal(capsys, source, out)


def test_an_empty_directory_is_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert len(pack(source, tmp_path / "out")) == 60
    assert len(pack(source, tmp_path / "a" / "b" / "out")) == 60


def test_a_place_inside_the_source_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lies in SRC" in refusal(capsys, source, source / "out")


def test_a_second_process_is_told_of_the_first(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / ".out.packing.lock"
    with locked(lock):
        assert "another process packs right now" in refusal(capsys, source, tmp_path / "out")
    assert len(pack(source, tmp_path / "out")) == 60
    assert not lock.exists()


def test_a_full_disk_is_a_sentence(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(shards.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert main(["pack", str(source), str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert len(pack(source, tmp_path / "out")) == 60


def test_classes_and_the_command_to_train_with(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(source, tmp_path / "out set")
    told = capsys.readouterr().out
    assert f"{tmp_path / 'out set'}: 60 samples of 3 classes, 1 shard, 0.1 MB" in told
    assert told.endswith(f"  python -m distgan.train --data.url '{tmp_path / 'out set'}'\n")
    assert json.loads((tmp_path / "out set" / "classes.json").read_text()) == ["bird", "cat", "dog"]
    write_files(source, {"cat/large.png": encode(noise(0, 100, 70, 3))})
    pack(source, tmp_path / "divided", "--test-share", 0.1)
    assert capsys.readouterr().out.endswith(f"--data.url {tmp_path / 'divided' / 'train'} --data.resolution 8\n")


def test_results_wait_in_bounded_number(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """joblib runs ahead of whoever takes the results; a round does not."""
    monkeypatch.setattr(workers, "_BATCH_SAMPLES", 2)
    works = [Work(f"{number:04d}", Item("a.png", FileRange(str(source / "cat" / "0.png"), 0, 100), None)) for number in range(2000)]
    taken = 0

    class Counting(list):
        def __iter__(self) -> Iterator[Work]:
            nonlocal taken
            for work in super().__iter__():
                taken += 1
                yield work

    results = workers.pack_all(Counting(works), Recipe(keep=True, encoding=None), 2, tmp_path)
    next(results)
    assert taken < 100
    results.close()


@pytest.mark.parametrize(("size", "expected"), [(1000, [1536, 464]), (10 * 2**20, [5, 5, 2]), (100 * 2**20, [3, 3, 3, 3])])
def test_rounds_of_large_files_are_short(size: int, expected: list[int]) -> None:
    """Three workers: 48 MiB to read or more in a round, but never a worker without work."""
    works = [Work(str(number), Item("a.png", FileRange("", 0, size), None)) for number in range(sum(expected))]
    assert [sum(map(len, batches)) for batches in workers._rounds(works, 3)] == expected
