"""Samples of a stream: what webdataset groups, plain files of images and labels only, in a buffer that is bounded."""

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distgan.data.shards.grouping import NO_LABEL
from distgan.data.streaming import stream_samples
from distgan.data.streaming.stream_samples import StreamedSample, StreamProblem, samples_of, shuffled
from tests.shards import encode, noise, read_webdataset, write_tar


def test_samples_are_what_webdataset_groups(tmp_path: Path) -> None:
    """Of names with folders, dots, capitals and members that are of no interest; with the label that is missing."""
    names = ["a/0.png", "a/0.cls", "a.b/0.png", "0.json", "0.png", "0.seg.png", "1.PNG", "1.cls", "2.png", "README", "._2.png", ".hidden"]
    members = [(name, b"3" if name.endswith("cls") else name.encode()) for name in names]
    url = write_tar(tmp_path / "x.tar", members)
    expected = {(sample["__key__"], sample["png"], int(sample.get("cls", NO_LABEL))) for sample in read_webdataset(url) if "png" in sample}
    samples = [item for item in samples_of(str(url), None) if isinstance(item, StreamedSample)]
    assert {(sample.key, sample.payload, sample.label) for sample in samples} == expected
    assert len(samples) == 5


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encode(noise(0)))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE)):
            information = tarfile.TarInfo(name)
            information.type, information.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(information)
    problems = list(samples_of(str(tmp_path / "x.tar"), None))
    assert [item.key for item in problems if isinstance(item, StreamProblem) and "as a link" in item.sentence] == ["a", "b"]


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_samples, "MAX_IMAGE_BYTES", 1000)
    url = write_tar(tmp_path / "x.tar", [("a.png", bytes(1001)), ("b.png", bytes(1000)), ("c.png", b"c"), ("c.cls", b"1" * 33)])
    huge, sample, label = samples_of(str(url), None)
    assert isinstance(huge, StreamProblem)
    assert "holds 'a.png' of 1001 bytes" in huge.sentence
    assert isinstance(sample, StreamedSample)
    assert isinstance(label, StreamProblem)
    assert "the label 'a long text'" in label.sentence


def test_what_waits_to_be_shuffled_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In samples, and in bytes."""
    monkeypatch.setattr(stream_samples, "SHUFFLE_BYTES", 50_000)
    for sample_bytes, largest in ((10, 1000), (1000, 50), (60_000, 0)):
        given = []

        def endless(num_bytes: int = sample_bytes, given: list[int] = given) -> Iterator[StreamedSample]:
            for number in itertools.count():
                given.append(number)
                yield StreamedSample("x", str(number), "png", bytes(num_bytes), 0)

        taken = 0
        for _ in itertools.islice(shuffled(endless(), seed=0), 5000):
            taken += 1
            assert len(given) - taken <= largest + 1
        assert len(given) - taken >= largest - 1


def test_shuffling_loses_nothing() -> None:
    samples = [StreamedSample("x", str(number), "png", b"", 0) for number in range(2500)]
    result = list(shuffled(samples, seed=0))
    assert sorted(result) == sorted(samples)
    assert result != samples
