"""Streams: the right samples, about equally often, for ever, on any ranks and workers; nothing else is ever touched."""

import contextlib
import io
import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distgan.batch import BatchLayout
from distgan.data.shards.damage import DamagedSampleError
from distgan.data.streaming import stream_samples
from tests.http_server import serving
from tests.shards import Member, encode, noise, write_set, write_tar
from tests.streams import SKIP, Start, labels_of, numbers_of, take


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that does not hold more than these tests read."""
    monkeypatch.setattr(stream_samples, "SHUFFLE_SAMPLES", 20)
    monkeypatch.setattr(stream_samples, "SHUFFLE_START", 5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_labels_are_the_shards(num_workers: int, tmp_path: Path, start_stream: Start) -> None:
    urls = write_set(tmp_path, [7, 1, 12])
    slices = take(start_stream(urls, num_workers=num_workers, num_classes=10), 40)
    found = numbers_of(slices, 20)
    assert set(found) == set(range(20))
    assert labels_of(slices) == [number % 10 for number in found]
    assert (slices[0].images.dtype, slices[0].images.shape) == (torch.uint8, (8, 1, 8, 8))
    assert slices[0].labels.dtype == torch.int64


def test_every_kind_of_image_has_pillows_pixels(tmp_path: Path, start_stream: Start) -> None:
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
    slices = take(start_stream([url], image_size=16, channels=3), 10)
    assert {image.permute(1, 2, 0).numpy().tobytes() for part in slices for image in part.images} == expected


@pytest.mark.parametrize(
    "url", ["pipe:cat {0} {1}", "pipe:cat {0} | cat - {1}", "pipe:gzip -c {0} {1}", "pipe:(cat {0}; bzip2 -c {1}) | cat"]
)
def test_commands(url: str, tmp_path: Path, start_stream: Start) -> None:
    """Several tars in one stream; webdataset alone would end after the first. What is compressed after what is not, is damaged."""
    first, second = write_set(tmp_path, [6, 6])
    reader = start_stream([url.format(first, second)])
    if "bzip2" in url:
        with pytest.raises(DamagedSampleError, match="is damaged after byte"):
            take(reader, 20)
    else:
        assert set(numbers_of(take(reader, 20), 12)) == set(range(12))


def test_a_server_that_knows_no_ranges(tmp_path: Path, start_stream: Start) -> None:
    paths = write_set(tmp_path, [6, 6])
    with serving(tmp_path) as server:
        for path in paths:
            server.faults[f"/{path.name}"].ignores_range = True
        assert set(numbers_of(take(start_stream([server.url(path.name) for path in paths]), 20), 12)) == set(range(12))
        assert server.ranges("/0000.tar")[0] is None


@pytest.mark.parametrize(("fault", "code"), [("cuts", 18), ("resets", 56), ("says_no_size", None), ("missing", 22)])
def test_a_server_that_fails_is_named(fault: str, code: int | None, tmp_path: Path, start_stream: Start) -> None:
    """Where it does not say how much there is, a tar that ends too early tells."""
    write_set(tmp_path, [40])
    with serving(tmp_path) as server:
        name = "9.tar" if fault == "missing" else "0000.tar"
        if fault == "says_no_size":
            server.faults["/0000.tar"].missing_bytes = 20_000
        if fault != "missing":
            setattr(server.faults[f"/{name}"], fault, 1000)
        with pytest.raises(DamagedSampleError) as error:
            take(start_stream([server.url(name)]), 40)
    assert str(error.value).startswith(f"{server.url(name)} ")
    assert ("is damaged after byte" if code is None else f"could not be read to its end (curl ended with exit code {code}") in str(
        error.value
    )


@pytest.mark.usefixtures("small_buffer")
def test_every_sample_is_seen_about_equally_often(tmp_path: Path, start_stream: Start) -> None:
    """Though shards are of very different lengths: each is drawn as often as the others, and read to its end."""
    urls = write_set(tmp_path, [2, 15, 7])
    counts = Counter(numbers_of(take(start_stream(urls), 24 * 300 // 8), 24))
    assert len(counts) == 24
    assert min(counts.values()) > 0.8 * 300
    assert max(counts.values()) < 1.2 * 300


@pytest.mark.usefixtures("small_buffer")
def test_samples_are_shuffled(tmp_path: Path, start_stream: Start) -> None:
    """Neighbours of the shard are none of the batch; the same order does not come again."""
    (url,) = write_set(tmp_path, [64])
    found = numbers_of(take(start_stream([url]), 24), 64)
    neighbours = sum(b == a + 1 for a, b in itertools.pairwise(found))
    assert neighbours < len(found) / 4
    assert found[:64] != found[64:128]


def test_ranks_and_workers_without_enough_shards_take_equal_steps(tmp_path: Path, start_stream: Start) -> None:
    """One shard of three samples, for two ranks of two workers each."""
    (url,) = write_set(tmp_path, [3])
    of_ranks = [take(start_stream([url], BatchLayout(8, 2, 2, rank), num_workers=2), 30) for rank in range(2)]
    assert [len(slices) for slices in of_ranks] == [30, 30]
    for slices in of_ranks:
        assert set(numbers_of(slices, 3)) == {0, 1, 2}
    assert numbers_of(of_ranks[0], 3) != numbers_of(of_ranks[1], 3)


def test_numbers_are_the_ranks_own_positions(tmp_path: Path, start_stream: Start) -> None:
    """They key what is drawn for each image: no two ranks have the same, and a resumed run goes on counting."""
    (url,) = write_set(tmp_path, [3])
    of_ranks = [take(start_stream([url], BatchLayout(8, 2, 2, rank), first_batch=5), 4) for rank in range(2)]
    numbers = np.concatenate([of_ranks[rank][step].numbers for step in range(4) for rank in range(2)])
    assert numbers.tolist() == list(range(40, 56))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_comes_is_decided_by_seed_rank_and_first_batch(num_workers: int, tmp_path: Path, start_stream: Start) -> None:
    """And by nothing else: so a restart at another batch, or another rank, sees other shards first."""
    urls = write_set(tmp_path, [4] * 50)

    def order(rank: int = 0, **settings: int) -> list[int]:
        return numbers_of(take(start_stream(urls, BatchLayout(16, 1, 2, rank), num_workers=num_workers, **settings), 8), 200)

    orders = [order(), order(rank=1), order(seed=1), order(first_batch=3)]
    assert order() == orders[0]
    assert len({tuple(each) for each in orders}) == 4
    first_shards = [Counter(number // 4 for number in each) for each in orders]
    assert len({tuple(sorted(each.items())) for each in first_shards}) == 4


def test_workers_have_streams_of_their_own(tmp_path: Path, start_stream: Start) -> None:
    urls = write_set(tmp_path, [4] * 50)
    slices = take(start_stream(urls, num_workers=2), 8)
    assert numbers_of(slices[::2], 200) != numbers_of(slices[1::2], 200)


def test_torchs_own_randomness_is_left_alone(tmp_path: Path, start_stream: Start) -> None:
    (url,) = write_set(tmp_path, [4])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(start_stream([url], num_workers=1), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_was_read_is_counted(num_workers: int, tmp_path: Path, start_stream: Start) -> None:
    urls = write_set(tmp_path, [5, 6])
    reader = start_stream(urls, num_workers=num_workers)
    found = numbers_of(take(reader, 4), 11)
    statistics = reader.take_statistics()
    assert statistics.samples == 32
    assert statistics.bytes == sum(len(encode(noise(number))) for number in found)
    assert statistics.wait_seconds > 0
    assert statistics.read_seconds > 0
    assert statistics.decode_seconds > 0
    assert reader.take_statistics().samples == 0


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
def test_nothing_is_ever_unpickled(num_workers: int, tmp_path: Path, start_stream: Start) -> None:
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
    reader = start_stream([write_tar(tmp_path / "x.tar", members)], num_workers=num_workers, policy=SKIP)
    assert set(numbers_of(take(reader, 20), 6)) == set(range(6))
    assert {skip.key for skip in reader.take_skips()} == {"alone-npy", "in-place", "label"}
    assert not canary.exists()
