"""Streams in which something is damaged: ended by its name, or gone on without it, counted and within a budget."""

import io
from pathlib import Path

import numpy as np
import pytest

from distgan.data.shards.damage import DamagedSampleError, DamagePolicy
from distgan.data.shards.grouping import NO_LABEL
from tests.http_server import serving
from tests.shards import Member, encode, noise, sample_members, write_set, write_tar
from tests.streams import SKIP, Start, labels_of, numbers_of, take


def broken_samples() -> dict[str, list[Member]]:
    """What each is, by a word of its sentence."""
    png = encode(noise(0))
    return {
        "not a readable image": [("bad.cls", b"1"), ("bad.png", png[:-30])],
        "bad.npy', which is an array of float64": [("bad.cls", b"1"), ("bad.npy", _saved(np.zeros((8, 8))))],
        "the label 'seven'": [("bad.png", png), ("bad.cls", b"seven")],
        "the label 10, but data.num_classes is 10": [("bad.png", png), ("bad.cls", b"10")],
        "without a label": [("bad.png", png)],
        "no image in": [("bad.cls", b"1")],
        "2 images": [("bad.cls", b"1"), ("bad.png", png), ("bad.jpg", png)],
        "'bad.png' twice": [("bad.cls", b"1"), ("bad.png", png), ("bad.png", png)],
    }


def _saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


@pytest.mark.parametrize("words", broken_samples())
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_sample_ends_the_run_by_its_name_or_is_left_out(
    words: str, num_workers: int, tmp_path: Path, start_stream: Start
) -> None:
    members = [*sample_members(range(30)), *broken_samples()[words], *sample_members(range(30, 60))]
    url = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DamagedSampleError, match=r"'bad|'seven'") as error:
        take(start_stream([url], num_workers=num_workers, num_classes=10), 40)
    assert words in str(error.value)
    assert str(error.value).startswith(f"{url} holds ")
    assert "set data.on_error to skip" in str(error.value)
    reader = start_stream([url], num_workers=num_workers, num_classes=10, policy=SKIP)
    slices = take(reader, 40)
    assert labels_of(slices) == [number % 10 for number in numbers_of(slices, 60)]
    (skip,) = reader.take_skips()
    assert (skip.shard, skip.key) == (str(url), "bad")
    assert words in skip.reason
    statistics = reader.take_statistics()
    assert list(statistics.skipped) == ["decoding" if words.endswith(("image", "float64")) else "label" if "label" in words else "sample"]
    assert statistics.skipped.total() >= 4  # once a pass
    assert statistics.samples == 320
    assert reader.take_skips() == []


def test_labels_do_not_matter_to_an_unconditional_model(tmp_path: Path, start_stream: Start) -> None:
    url = write_tar(tmp_path / "x.tar", [("0.png", encode(noise(0))), ("1.png", encode(noise(1))), ("1.cls", b"1000")])
    assert set(labels_of(take(start_stream([url]), 10))) == {NO_LABEL, 1000}


def streams_that_fail(directory: Path) -> dict[str, str]:
    """A url for each word of its sentence."""
    whole, other = write_set(directory, [20, 20])
    cut = directory / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:5000])
    (directory / "text.tar").write_text("this is no tar" * 100)
    return {
        "cannot be opened (No such file or directory)": str(directory / "missing.tar"),
        "is damaged after byte": str(cut),
        "is not a readable tar": str(directory / "text.tar"),
        "holds no image": str(write_tar(directory / "empty.tar", [("a.txt", b"hello"), ("b.json", b"{}")])),
        "its command ended with exit code 3": f"pipe:cat {whole}; exit 3",
        "its command ended with exit code 127": "pipe:no-such-command-here 2>/dev/null",
        "is damaged": f"pipe:cat {cut} {other}",
    }


@pytest.mark.parametrize("number", range(7))
def test_a_stream_that_fails_ends_the_run_by_its_name_or_is_left(number: int, tmp_path: Path, start_stream: Start) -> None:
    words, url = list(streams_that_fail(tmp_path).items())[number]
    with pytest.raises(DamagedSampleError) as error:
        take(start_stream([url]), 40)
    assert str(error.value).startswith(f"{url} ")
    assert words in str(error.value)
    other = write_tar(tmp_path / "other.tar", sample_members(range(40, 50)))
    reader = start_stream([url, other], policy=SKIP)
    assert set(numbers_of(take(reader, 40), 50)) >= set(range(40, 50))
    (skip,) = reader.take_skips()
    assert (skip.shard, skip.key) == (url, "")
    assert words in skip.reason
    assert list(reader.take_statistics().skipped) == ["shard"]


def test_what_is_secret_in_a_url_is_not_told(tmp_path: Path, start_stream: Start) -> None:
    with serving(tmp_path) as server:
        url = f"{server.url('a.tar').replace('//', '//me:secret@')}?signature=secret"
        with pytest.raises(DamagedSampleError, match="exit code 22") as error:
            take(start_stream([url]), 1)
        assert server.num_requests("/a.tar") > 0
    assert str(error.value).startswith(f"{server.url('a.tar')} ")
    assert "secret" not in str(error.value)


def test_streams_that_all_fail_end_the_run_though_it_skips(tmp_path: Path, start_stream: Start) -> None:
    """Instead of asking for them for ever."""
    with pytest.raises(DamagedSampleError, match=r"16 samples in a row are damaged\. .*missing-\d\.tar cannot be opened"):
        take(start_stream([tmp_path / f"missing-{number}.tar" for number in range(3)], policy=SKIP), 1)


def test_more_damage_than_allowed_ends_it(tmp_path: Path, start_stream: Start) -> None:
    """Two in a hundred, of which a hundredth may be; not before a thousand were read."""
    members = sample_members(range(100))
    members = [(name, b"x" if name in ("000007.png", "000063.png") else content) for name, content in members]
    url = write_tar(tmp_path / "x.tar", members)
    reader = start_stream([url], policy=DamagePolicy(skip=True, max_skipped_share=0.01))
    with pytest.raises(
        DamagedSampleError, match=r"11 of the \d+ samples .* data\.max_skipped_share 0\.01 allows.*The last one: .*'0000(07|63)"
    ):
        take(reader, 10_000)
    reader = start_stream([url], policy=DamagePolicy(skip=True, max_skipped_share=0.03))
    assert len(take(reader, 500)) == 500
