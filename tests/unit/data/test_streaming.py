"""Streams: the right samples, about equally often, for ever, on any ranks and workers; nothing but images and labels is ever touched."""

import contextlib
import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distgan.batch import BatchLayout
from distgan.data import stream_samples
from distgan.data.damage import DamagedSampleError, DamagePolicy
from distgan.data.grouping import NO_LABEL
from distgan.data.reader import RealSlice
from distgan.data.stream_samples import StreamedSample, StreamProblem, samples_of, shuffled
from distgan.data.streaming import StreamReader
from tests.http_server import serving
from tests.shards import Member, encode, noise, read_webdataset, sample_members, write_set, write_tar

GUARD_SECONDS = 60
ONE_RANK = BatchLayout(batch_size=8, accumulation_steps=1, world_size=1, rank=0)
SKIP = DamagePolicy(skip=True, max_skipped_share=0.9)
Start = Callable[..., StreamReader]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts readers of grey images of 8x8 pixels, and closes them at the end."""
    readers = []

    def start_reader(urls: Sequence[str | Path], layout: BatchLayout = ONE_RANK, **settings: Any) -> StreamReader:
        settings = {"image_size": 8, "channels": 1, "num_classes": None, "seed": 0, "num_workers": 0} | settings
        readers.append(StreamReader([str(url) for url in urls], layout, **settings))
        return readers[-1]

    yield start_reader
    for each in readers:
        each.close()


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that does not hold more than these tests read."""
    monkeypatch.setattr(stream_samples, "SHUFFLE_SAMPLES", 20)
    monkeypatch.setattr(stream_samples, "SHUFFLE_START", 5)


def take(reader: StreamReader, count: int) -> list[RealSlice]:
    return list(itertools.islice(reader, count))


def known(count: int) -> dict[bytes, int]:
    """Which `noise` the bytes of an image [1, 8, 8] are."""
    return {noise(number).tobytes(): number for number in range(count)}


def numbers_of(slices: list[RealSlice], count: int) -> list[int]:
    """Which `noise` each image is; KeyError if it is none of the first `count`."""
    by_bytes = known(count)
    return [by_bytes[image.numpy().tobytes()] for part in slices for image in part.images]


def labels_of(slices: list[RealSlice]) -> list[int]:
    return torch.cat([part.labels for part in slices]).tolist()


# What comes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_labels_are_the_shards(num_workers: int, tmp_path: Path, start: Start) -> None:
    urls = write_set(tmp_path, [7, 1, 12])
    slices = take(start(urls, num_workers=num_workers, num_classes=10), 40)
    found = numbers_of(slices, 20)
    assert set(found) == set(range(20))
    assert labels_of(slices) == [number % 10 for number in found]
    assert (slices[0].images.dtype, slices[0].images.shape) == (torch.uint8, (8, 1, 8, 8))
    assert slices[0].labels.dtype == torch.int64


def test_every_kind_of_image_has_pillows_pixels(tmp_path: Path, start: Start) -> None:
    """Scaled, cropped and with the channels that are asked for."""
    array = io.BytesIO()
    np.save(array, noise(9, 20, 30, 3), allow_pickle=False)
    pictures = {
        "grey.png": encode(noise(0, 24, 24)),
        "wide.jpg": encode(noise(1, 16, 40, 3), "jpg"),
        "high.webp": encode(noise(2, 40, 16, 3), "webp"),
        "small.bmp": encode(noise(3, 5, 5, 3), "bmp"),
        "wide.ppm": encode(noise(4, 9, 30, 3), "ppm"),
    }
    members = [(f"{number}.{name.partition('.')[2]}", content) for number, (name, content) in enumerate(pictures.items())]
    url = write_tar(tmp_path / "x.tar", [*members, ("9.npy", array.getvalue())])
    expected = set()
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as image:
            expected.add(np.asarray(ImageOps.fit(image.convert("RGB"), (16, 16), method=Image.Resampling.LANCZOS)).tobytes())
    expected.add(np.asarray(ImageOps.fit(Image.fromarray(noise(9, 20, 30, 3)), (16, 16), method=Image.Resampling.LANCZOS)).tobytes())
    slices = take(start([url], image_size=16, channels=3), 10)
    assert {image.permute(1, 2, 0).numpy().tobytes() for part in slices for image in part.images} == expected


def test_samples_are_what_webdataset_groups(tmp_path: Path) -> None:
    """Of names with folders, dots, capitals and members that are of no interest; with the label that is missing."""
    names = ["a/0.png", "a/0.cls", "a.b/0.png", "0.json", "0.png", "0.seg.png", "1.PNG", "1.cls", "2.png", "README", "._2.png", ".hidden"]
    members = [(name, b"3" if name.endswith("cls") else name.encode()) for name in names]
    url = write_tar(tmp_path / "x.tar", members)
    expected = {(sample["__key__"], sample["png"], int(sample.get("cls", NO_LABEL))) for sample in read_webdataset(url) if "png" in sample}
    samples = [item for item in samples_of(str(url), None) if isinstance(item, StreamedSample)]
    assert {(sample.key, sample.payload, sample.label) for sample in samples} == expected
    assert len(samples) == 5


@pytest.mark.parametrize(
    "url", ["pipe:cat {0} {1}", "pipe:cat {0} | cat - {1}", "pipe:gzip -c {0} {1}", "pipe:(cat {0}; bzip2 -c {1}) | cat"]
)
def test_commands(url: str, tmp_path: Path, start: Start) -> None:
    """Several tars in one stream; webdataset alone would end after the first. What is compressed after what is not, is damaged."""
    first, second = write_set(tmp_path, [6, 6])
    reader = start([url.format(first, second)])
    if "bzip2" in url:
        with pytest.raises(DamagedSampleError, match="is damaged after byte"):
            take(reader, 20)
    else:
        assert set(numbers_of(take(reader, 20), 12)) == set(range(12))


def test_a_server_that_knows_no_ranges(tmp_path: Path, start: Start) -> None:
    paths = write_set(tmp_path, [6, 6])
    with serving(tmp_path) as server:
        for path in paths:
            server.faults[f"/{path.name}"].ignores_range = True
        assert set(numbers_of(take(start([server.url(path.name) for path in paths]), 20), 12)) == set(range(12))
        assert server.ranges("/0000.tar")[0] is None


@pytest.mark.parametrize(("fault", "code"), [("cuts", 18), ("resets", 56), ("says_no_size", None), ("missing", 22)])
def test_a_server_that_fails_is_named(fault: str, code: int | None, tmp_path: Path, start: Start) -> None:
    """Where it does not say how much there is, a tar that ends too early tells."""
    write_set(tmp_path, [40])
    with serving(tmp_path) as server:
        name = "9.tar" if fault == "missing" else "0000.tar"
        if fault == "says_no_size":
            server.faults["/0000.tar"].missing_bytes = 20_000
        if fault != "missing":
            setattr(server.faults[f"/{name}"], fault, 1000)
        with pytest.raises(DamagedSampleError) as error:
            take(start([server.url(name)]), 40)
    assert str(error.value).startswith(f"{server.url(name)} ")
    assert ("is damaged after byte" if code is None else f"could not be read to its end (curl ended with exit code {code})") in str(
        error.value
    )


@pytest.mark.usefixtures("small_buffer")
def test_every_sample_is_seen_about_equally_often(tmp_path: Path, start: Start) -> None:
    """Though shards are of very different lengths: each is drawn as often as the others, and read to its end."""
    urls = write_set(tmp_path, [2, 15, 7])
    counts = Counter(numbers_of(take(start(urls), 24 * 300 // 8), 24))
    assert len(counts) == 24
    assert min(counts.values()) > 0.8 * 300
    assert max(counts.values()) < 1.2 * 300


@pytest.mark.usefixtures("small_buffer")
def test_samples_are_shuffled(tmp_path: Path, start: Start) -> None:
    """Neighbours of the shard are none of the batch; the same order does not come again."""
    (url,) = write_set(tmp_path, [64])
    found = numbers_of(take(start([url]), 24), 64)
    neighbours = sum(b == a + 1 for a, b in itertools.pairwise(found))
    assert neighbours < len(found) / 4
    assert found[:64] != found[64:128]


# Ranks, workers, sittings


def test_ranks_and_workers_without_enough_shards_take_equal_steps(tmp_path: Path, start: Start) -> None:
    """One shard of three samples, for two ranks of two workers each."""
    (url,) = write_set(tmp_path, [3])
    of_ranks = [take(start([url], BatchLayout(8, 2, 2, rank), num_workers=2), 30) for rank in range(2)]
    assert [len(slices) for slices in of_ranks] == [30, 30]
    for slices in of_ranks:
        assert set(numbers_of(slices, 3)) == {0, 1, 2}
    assert numbers_of(of_ranks[0], 3) != numbers_of(of_ranks[1], 3)


def test_numbers_are_the_ranks_own_positions(tmp_path: Path, start: Start) -> None:
    """They key what is drawn for each image: no two ranks have the same, and a resumed run goes on counting."""
    (url,) = write_set(tmp_path, [3])
    of_ranks = [take(start([url], BatchLayout(8, 2, 2, rank), first_batch=5), 4) for rank in range(2)]
    numbers = np.concatenate([of_ranks[rank][step].numbers for step in range(4) for rank in range(2)])
    assert numbers.tolist() == list(range(40, 56))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_comes_is_decided_by_seed_rank_and_first_batch(num_workers: int, tmp_path: Path, start: Start) -> None:
    """And by nothing else: so a restart at another batch, or another rank, sees other shards first."""
    urls = write_set(tmp_path, [4] * 50)

    def order(rank: int = 0, **settings: int) -> list[int]:
        return numbers_of(take(start(urls, BatchLayout(16, 1, 2, rank), num_workers=num_workers, **settings), 8), 200)

    orders = [order(), order(rank=1), order(seed=1), order(first_batch=3)]
    assert order() == orders[0]
    assert len({tuple(each) for each in orders}) == 4
    first_shards = [Counter(number // 4 for number in each) for each in orders]
    assert len({tuple(sorted(each.items())) for each in first_shards}) == 4


def test_workers_have_streams_of_their_own(tmp_path: Path, start: Start) -> None:
    urls = write_set(tmp_path, [4] * 50)
    slices = take(start(urls, num_workers=2), 8)
    assert numbers_of(slices[::2], 200) != numbers_of(slices[1::2], 200)


def test_torchs_own_randomness_is_left_alone(tmp_path: Path, start: Start) -> None:
    (url,) = write_set(tmp_path, [4])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(start([url], num_workers=1), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_was_read_is_counted(num_workers: int, tmp_path: Path, start: Start) -> None:
    urls = write_set(tmp_path, [5, 6])
    reader = start(urls, num_workers=num_workers)
    found = numbers_of(take(reader, 4), 11)
    statistics = reader.take_statistics()
    assert statistics.samples == 32
    assert statistics.bytes == sum(len(encode(noise(number))) for number in found)
    assert statistics.wait_seconds > 0
    assert statistics.read_seconds > 0
    assert statistics.decode_seconds > 0
    assert reader.take_statistics().samples == 0


# What is not to be touched


class Canary:
    """Writes a file if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def canaries(path: Path) -> dict[str, bytes]:
    """By extension, what webdataset or torch would unpickle."""
    saved, array = io.BytesIO(), io.BytesIO()
    torch.save(Canary(path), saved)
    np.save(array, np.array([[Canary(path)]], dtype=object), allow_pickle=True)
    pickled = pickle.dumps(Canary(path))
    return {"pkl": pickled, "pyd": pickled, "pickle": pickled, "pth": saved.getvalue(), "pt": saved.getvalue(), "npy": array.getvalue()}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_ever_unpickled(num_workers: int, tmp_path: Path, start: Start) -> None:
    """Not beside an image, not alone, and not in place of an image or a label."""
    canary = tmp_path / "canary"
    contents = canaries(canary)
    for extension, content in contents.items():
        with contextlib.suppress(Exception):
            np.load(io.BytesIO(content), allow_pickle=True) if extension == "npy" else torch.load(io.BytesIO(content), weights_only=False)
        assert canary.exists(), f"the canary of .{extension} would not sing"
        canary.unlink()
    members: list[Member] = []
    for number in range(6):
        members += [(f"{number}.{extension}", content) for extension, content in contents.items()] + [
            (f"{number}.png", encode(noise(number)))
        ]
    members += [(f"alone-{extension}.{extension}", content) for extension, content in contents.items()]
    members += [("in-place.png", contents["pkl"]), ("label.png", encode(noise(0))), ("label.cls", contents["pkl"])]
    reader = start([write_tar(tmp_path / "x.tar", members)], num_workers=num_workers, policy=SKIP)
    assert set(numbers_of(take(reader, 20), 6)) == set(range(6))
    assert {skip.key for skip in reader.take_skips()} == {"alone-npy", "in-place", "label"}
    assert not canary.exists()


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


# Damage


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
def test_a_damaged_sample_ends_the_run_by_its_name_or_is_left_out(words: str, num_workers: int, tmp_path: Path, start: Start) -> None:
    members = [*sample_members(range(30)), *broken_samples()[words], *sample_members(range(30, 60))]
    url = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DamagedSampleError, match=r"'bad|'seven'") as error:
        take(start([url], num_workers=num_workers, num_classes=10), 40)
    assert words in str(error.value)
    assert str(error.value).startswith(f"{url} holds ")
    assert "set data.on_error to skip" in str(error.value)
    reader = start([url], num_workers=num_workers, num_classes=10, policy=SKIP)
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


def test_labels_do_not_matter_to_an_unconditional_model(tmp_path: Path, start: Start) -> None:
    url = write_tar(tmp_path / "x.tar", [("0.png", encode(noise(0))), ("1.png", encode(noise(1))), ("1.cls", b"1000")])
    assert set(labels_of(take(start([url]), 10))) == {NO_LABEL, 1000}


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
def test_a_stream_that_fails_ends_the_run_by_its_name_or_is_left(number: int, tmp_path: Path, start: Start) -> None:
    words, url = list(streams_that_fail(tmp_path).items())[number]
    with pytest.raises(DamagedSampleError) as error:
        take(start([url]), 40)
    assert str(error.value).startswith(f"{url} ")
    assert words in str(error.value)
    other = write_tar(tmp_path / "other.tar", sample_members(range(40, 50)))
    reader = start([url, other], policy=SKIP)
    assert set(numbers_of(take(reader, 40), 50)) >= set(range(40, 50))
    (skip,) = reader.take_skips()
    assert (skip.shard, skip.key) == (url, "")
    assert words in skip.reason
    assert list(reader.take_statistics().skipped) == ["shard"]


def test_what_is_secret_in_a_url_is_not_told(tmp_path: Path, start: Start) -> None:
    with serving(tmp_path) as server:
        url = f"{server.url('a.tar').replace('//', '//me:secret@')}?signature=secret"
        with pytest.raises(DamagedSampleError, match="exit code 22") as error:
            take(start([url]), 1)
        assert server.num_requests("/a.tar") > 0
    assert str(error.value).startswith(f"{server.url('a.tar')} ")
    assert "secret" not in str(error.value)


def test_streams_that_all_fail_end_the_run_though_it_skips(tmp_path: Path, start: Start) -> None:
    """Instead of asking for them for ever."""
    with pytest.raises(DamagedSampleError, match=r"16 samples in a row are damaged\. .*missing-\d\.tar cannot be opened"):
        take(start([tmp_path / f"missing-{number}.tar" for number in range(3)], policy=SKIP), 1)


def test_more_damage_than_allowed_ends_it(tmp_path: Path, start: Start) -> None:
    """Two in a hundred, of which a hundredth may be; not before a thousand were read."""
    members = sample_members(range(100))
    members = [(name, b"x" if name in ("000007.png", "000063.png") else content) for name, content in members]
    url = write_tar(tmp_path / "x.tar", members)
    reader = start([url], policy=DamagePolicy(skip=True, max_skipped_share=0.01))
    with pytest.raises(
        DamagedSampleError, match=r"11 of the \d+ samples .* data\.max_skipped_share 0\.01 allows.*The last one: .*'0000(07|63)"
    ):
        take(reader, 10_000)
    reader = start([url], policy=DamagePolicy(skip=True, max_skipped_share=0.03))
    assert len(take(reader, 500)) == 500


# Processes


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> set[int]:
    """All processes below a process."""
    try:
        children = {int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}
    except FileNotFoundError:
        return set()
    return children.union(*(descendants(child) for child in children))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


RANK = """
import sys
from distgan.batch import BatchLayout
from distgan.data.streaming import StreamReader
reader = StreamReader([sys.argv[1]], BatchLayout(8, 1, 1, 0), 8, 1, None, 0, num_workers=int(sys.argv[2]))
try:
    next(reader)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(15):
            next(reader)
        print("read on", flush=True)
finally:
    reader.close()
print("closed", flush=True)
"""


@contextlib.contextmanager
def rank_of(url: str, num_workers: int) -> Iterator[subprocess.Popen[str]]:
    """A process that reads a stream, in a group of its own; by a line it is told to read on. It ignores the signals that the test sends."""
    program = f"import signal\nfor number in (2, 15): signal.signal(number, lambda *_: None)\n{RANK}"
    command = [sys.executable, "-c", program, url, str(num_workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            for pid in (*descendants(process.pid), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("source", "number", "num_workers"),
    [("command", signal.SIGTERM, 0), ("server", signal.SIGINT, 0), ("command", signal.SIGINT, 2), ("server", signal.SIGTERM, 2)],
)
def test_a_signal_to_all_processes_cuts_no_stream(source: str, number: signal.Signals, num_workers: int, tmp_path: Path) -> None:
    """Neither the workers nor the programs that they read from end of it: the rank still needs its images."""
    (path,) = write_set(tmp_path, [200])
    with serving(tmp_path) as server:
        server.faults[f"/{path.name}"].bytes_per_second = 1e6
        url = server.url(path.name) if source == "server" else f"pipe:split -b 4096 --filter='cat; sleep 0.004' {path}"
        with rank_of(url, num_workers) as rank:
            assert rank.stdin is not None
            assert rank.stdout is not None
            for _ in range(2):
                for pid in [rank.pid, *descendants(rank.pid)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                rank.stdin.write("on\n")
                rank.stdin.flush()
                assert rank.stdout.readline() == "read on\n"
            rank.stdin.close()
            assert rank.stdout.readline() == "closed\n"
            assert rank.wait(GUARD_SECONDS) == 0


def test_workers_end_with_a_rank_that_is_killed(tmp_path: Path) -> None:
    """And the commands they read from, though nothing comes from there that a closed pipe would stop."""
    (path,) = write_set(tmp_path, [150])
    with rank_of(f"pipe:cat {path}; sleep 1000; true", 2) as rank:
        until(lambda: len(descendants(rank.pid)) == 6, "two workers with a shell and its sleep each")
        below = descendants(rank.pid)
        rank.kill()
        until(lambda: not any(alive(pid) for pid in below), "a worker or its command outlived the rank")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_close_does_not_wait_for_a_command_that_says_nothing(num_workers: int, tmp_path: Path, start: Start) -> None:
    """A server that hangs: its images never come. The first ones did."""
    (path,) = write_set(tmp_path, [150])
    before = descendants(os.getpid())
    reader = start([f"pipe:cat {path}; exec sleep 1000"], num_workers=num_workers)
    take(reader, 1)
    started = descendants(os.getpid()) - before
    assert len(started) >= max(1, num_workers)
    reader.close()
    reader._lifeline = os.open(os.devnull, os.O_RDONLY)  # for the fixture, which closes once more
    until(lambda: not any(alive(pid) for pid in started), "a worker or its command is left")
