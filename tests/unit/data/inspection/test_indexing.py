"""index: lists everything that is damaged, and says by its exit code what a run would do about it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distgan.config import TrainConfig
from distgan.data.__main__ import _parser
from distgan.data.shards import local_shards
from distgan.data.shards.local_shards import recorded
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from tests.shards import encode, noise, sample_members, write_set, write_tar
from tests.unit.data.inspection.conftest import Outcome

Run = Callable[..., Outcome]
BAD = "which is not a readable image; pack it again"
NO_HEADER = "it begins with no tar header, and holds none"


def with_bad_images(path: Path, num_good: int, num_bad: int) -> Path:
    bad = [(f"bad-{number}.png", b"no image") for number in range(num_bad)]
    return write_tar(path, [*sample_members(range(num_good)), *bad])


def test_a_whole_set(directory: Path, run: Run) -> None:
    outcome = run("index", directory)
    assert outcome[:2] == (0, [])
    opened = open_manifest(resolve(str(directory)))
    assert outcome.stderr.splitlines() == [
        "samples  10 in 3 shards of 41.0kB",
        "labels   0 to 9, every sample is labelled",
        "images   8x8, grey",
        f"hash     {opened.hash}",
        f"index    {directory}",
    ]
    assert run("index", directory) == outcome


def test_every_damage_is_listed(directory: Path, run: Run) -> None:
    """Those of a shard of which nothing can be read, too, and it keeps no other shard from being indexed."""
    with_bad_images(directory / "0001.tar", num_good=20, num_bad=9)
    with_bad_images(directory / "0003.tar", num_good=0, num_bad=7)
    (directory / "0004.tar").write_bytes(b"no tar" * 1000)
    outcome = run("index", directory)
    assert outcome.code == 1
    assert outcome.lines == [
        *(f"{directory}/0001.tar\tbad-{number}\tholds 'bad-{number}.png', {BAD}" for number in range(9)),
        *(f"{directory}/0003.tar\tbad-{number}\tholds 'bad-{number}.png', {BAD}" for number in range(7)),
        f"{directory}/0004.tar\t\tis not a readable tar ({NO_HEADER}); pack it again or take it out of data.url",
    ]
    assert "45 of 70 samples (64 %) are damaged: a run refuses that" in outcome.stderr
    assert [shard.record.num_samples for shard in recorded(directory)] == [3, 20, 2, 0, 0]
    assert run("index", directory).lines == outcome.lines


def test_a_set_without_a_single_readable_sample(tmp_path: Path, run: Run) -> None:
    write_tar(tmp_path / "a.tar", [("readme.txt", b"hello")])
    outcome = run("index", tmp_path, "--on-error", "skip")
    assert outcome.code == 1
    assert [line.split("\t")[:2] for line in outcome.lines] == [[f"{tmp_path}/a.tar", ""]]
    assert "Nothing could be indexed." in outcome.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 1, "a run refuses that; mend the shards, or set data.on_error to skip."),
        (["--on-error", "skip"], 1, "more than data.max_skipped_share 0.01 allows"),
        (["--on-error", "skip", "--max-skipped-share", "0.19"], 1, "more than data.max_skipped_share 0.19 allows"),
        (["--on-error", "skip", "--max-skipped-share", "0.2"], 0, "a run skips that, as data.max_skipped_share 0.2 allows."),
        (["--on-error", "fail", "--max-skipped-share", "0.9"], 1, "a run refuses that"),
    ],
)
def test_what_a_run_would_do_is_the_exit_code(tmp_path: Path, run: Run, options: list[str], code: int, words: str) -> None:
    with_bad_images(tmp_path / "a.tar", num_good=8, num_bad=2)
    outcome = run("index", tmp_path, *options)
    assert outcome.code == code
    assert "2 of 10 samples (20 %) are damaged" in outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.lines) == 2


def test_the_defaults_are_those_of_a_run() -> None:
    options = _parser().parse_args(["index", "digits"])
    data = TrainConfig.model_fields["data"].get_default(call_default_factory=True)
    assert (options.on_error, options.max_skipped_share) == (data.on_error, data.max_skipped_share)


def test_a_shard_that_is_named_twice_is_listed_once(directory: Path, run: Run) -> None:
    with_bad_images(directory / "0001.tar", num_good=2, num_bad=1)
    outcome = run("index", f"{directory}/{{0001,0000,0001}}.tar")
    assert (outcome.code, len(outcome.lines)) == (1, 1)
    assert run("verify", f"{directory}/{{0001,0000,0001}}.tar").stderr.startswith("5 samples in 2 shards")


@pytest.mark.parametrize("share", ["-0.1", "1", "nan", "inf"])
def test_a_share_that_is_none(directory: Path, run: Run, share: str) -> None:
    outcome = run("index", directory, f"--max-skipped-share={share}")
    assert outcome[:2] == (2, [])
    assert outcome.stderr.startswith("distgan.data: error: --max-skipped-share is ")
    assert not (directory / "manifest.json").exists()


def test_what_is_new_is_indexed_and_what_is_gone_is_forgotten(directory: Path, run: Run) -> None:
    run("index", directory)
    (directory / "0001.tar").unlink()
    assert run("verify", directory).lines == [f"{directory}/0001.tar\t\tis missing"]
    assert open_manifest(resolve(str(directory))).num_samples == 5
    assert run("verify", directory).code == 1, "a run that opens the rest does not hide that"
    outcome = run("index", directory)
    assert f"{directory}/0001.tar is no longer there, and no longer in the manifest." in outcome.stderr
    assert run("verify", directory).code == 0
    assert "no longer" not in run("index", directory).stderr
    write_tar(directory / "0003.tar", sample_members(range(10, 14)))
    assert "samples  9 in 3 shards" in run("index", directory).stderr


def test_where_nothing_can_be_written_nothing_is_forgotten(directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", directory)
    (directory / "0001.tar").unlink()
    monkeypatch.setattr(local_shards.os, "access", lambda path, mode: False)
    before = (directory / "shards.jsonl").read_bytes()
    assert run("index", directory).code == 0
    assert (directory / "shards.jsonl").read_bytes() == before


def test_the_summary_of_a_mixed_set_in_two_directories(tmp_path: Path, run: Run) -> None:
    write_set(tmp_path / "a", [3])
    write_tar(tmp_path / "a" / "more.tar", [("x.png", encode(noise(0, 20, 9, 3))), ("x.cls", b"41")])
    write_set(tmp_path / "b", [2])
    write_tar(tmp_path / "b" / "more.tar", [("y.png", encode(noise(0)))])
    stderr = run("index", f"{tmp_path}/{{a,b}}").stderr
    assert "samples  7 in 4 shards of" in stderr
    assert "labels   0 to 41, 1 without a label" in stderr
    assert "images   sides of 8 to 20 pixels, 1 image not square, colour" in stderr
    assert re.search(rf"index +{tmp_path}/a, {tmp_path}/b$", stderr, re.MULTILINE)
