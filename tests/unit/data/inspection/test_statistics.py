"""Statistics of a set, held against NumPy over images that Pillow decoded."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data.inspection import statistics
from distgan.data.inspection.findings import Finding
from distgan.data.inspection.statistics import by_shard, chosen, measure
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.urls import resolve
from distgan.errors import InputError
from tests.shards import Member, encode, flip_bit, member_offsets, noise, write_set, write_tar


def opened(directory: Path) -> Manifest:
    return open_manifest(resolve(str(directory)))


def images_in(paths: list[Path]) -> dict[str, Image.Image]:
    """Every image of some shards by its name, as tarfile and Pillow read them."""
    found = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith((".cls", ".npy")):
                    found[member.name] = Image.open(io.BytesIO(tar.extractfile(member).read()))  # pyright: ignore
    return found


def smooth(number: int, height: int, width: int, channels: int) -> np.ndarray:
    """What a JPEG is made for."""
    return np.asarray(Image.fromarray(noise(number, 4, 4, channels)).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """Grey and colour, of many sizes and formats, some without a label."""
    shapes = [(9, 13, 3), (20, 7, 1), (8, 8, 3), (8, 8, 1), (31, 33, 3)]
    paths = []
    for shard in range(3):
        members: list[Member] = []
        for number in range(20 * shard, 20 * shard + 20):
            height, width, channels = shapes[number % 5]
            extension = ("png", "jpg", "bmp", "webp")[number % 4]
            members.append((f"{number:03d}.{extension}", encode(smooth(number, height, width, channels), extension)))
            members += [(f"{number:03d}.cls", str(number % 7).encode())] if number % 3 else []
        paths.append(write_tar(tmp_path / f"{shard}.tar", members))
    return paths


def moments(images: list[Image.Image], mode: str) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.concatenate([np.asarray(image.convert(mode), np.float64).reshape(image.width * image.height, -1) for image in images]) / 255
    return pixels.mean(axis=0), pixels.std(axis=0)


def test_a_mixed_set(mixed: list[Path]) -> None:
    found = measure(opened(mixed[0].parent), max_decoded=1000)
    images = images_in(mixed)
    mean, std = moments(list(images.values()), "RGB")
    np.testing.assert_allclose(found.pixels.mean(), mean, rtol=1e-12)
    np.testing.assert_allclose(found.pixels.std(), std, rtol=1e-12)
    assert found.pixels.num_images == len(images) == 60
    assert found.sizes == Counter(image.size for image in images.values())
    assert found.pixels.formats == Counter(image.format for image in images.values()) == {"PNG": 15, "JPEG": 15, "BMP": 15, "WEBP": 15}
    # WebP has no grey: such an image comes back in colour.
    assert found.channels == Counter(1 if image.mode == "L" else 3 for image in images.values())
    assert found.decoders.keys() == {"SPNG", "JPEG_TURBO", "PILLOW"}
    assert found.labels.tolist() == [number % 7 if number % 3 else -1 for number in range(60)]


def test_bytes_are_those_of_the_members(mixed: list[Path]) -> None:
    sizes = []
    for path in mixed:
        with tarfile.open(path) as tar:
            sizes += [member.size for member in tar if not member.name.endswith(".cls")]
    assert measure(opened(mixed[0].parent), max_decoded=1).bytes.tolist() == sizes


def test_a_grey_set_has_one_channel(tmp_path: Path) -> None:
    paths = write_set(tmp_path, [4, 5])
    found = measure(opened(tmp_path), max_decoded=100)
    mean, std = moments(list(images_in(paths).values()), "L")
    np.testing.assert_allclose(found.pixels.mean(), mean, rtol=1e-12)
    np.testing.assert_allclose(found.pixels.std(), std, rtol=1e-12)
    assert len(mean) == 1


def test_the_deviation_of_nearly_constant_images_does_not_cancel(tmp_path: Path) -> None:
    pixels = np.full((500, 500), 255, np.uint8)
    pixels[0, 0] = 254
    write_tar(tmp_path / "a.tar", [(f"{number}.png", encode(pixels)) for number in range(40)])
    share = 1 / pixels.size
    (std,) = measure(opened(tmp_path), max_decoded=100).pixels.std()
    assert std == pytest.approx(np.sqrt(share * (1 - share)) / 255, rel=1e-12)


def test_raw_images_count_as_arrays(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, noise(0, 5, 6, 3))
    write_tar(tmp_path / "a.tar", [("a.npy", content.getvalue()), ("b.png", encode(noise(1, 5, 6, 3)))])
    found = measure(opened(tmp_path), max_decoded=100)
    assert found.pixels.formats == {"NPY": 1, "PNG": 1}
    pixels = np.concatenate([noise(0, 5, 6, 3), noise(1, 5, 6, 3)]) / 255
    np.testing.assert_allclose(found.pixels.mean(), pixels.mean(axis=(0, 1)), rtol=1e-12)


def test_only_the_chosen_images_are_decoded(tmp_path: Path) -> None:
    paths = write_set(tmp_path, [30, 5, 40])
    found = measure(opened(tmp_path), max_decoded=20)
    numbers = chosen(75, 20).tolist()
    images = images_in(paths)
    mean, _ = moments([images[f"{number:06d}.png"] for number in numbers], "L")
    assert found.pixels.num_images == 20
    np.testing.assert_allclose(found.pixels.mean(), mean, rtol=1e-12)
    assert len(found.labels) == 75, "but everything else is of all samples"


def test_processes_find_the_same(mixed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = opened(mixed[0].parent)
    here = measure(manifest, max_decoded=50)
    monkeypatch.setattr("distgan.data.parallel._PARALLEL_BYTES", 0)
    there = measure(manifest, max_decoded=50)
    assert (there.pixels.histogram == here.pixels.histogram).all()
    assert (there.sizes, there.decoders, there.pixels.formats) == (here.sizes, here.decoders, here.pixels.formats)
    assert there.labels.tolist() == here.labels.tolist()


def test_a_damaged_image_is_left_out_and_named(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [5])
    manifest = opened(tmp_path)
    images = images_in([path])
    flip_bit(path, member_offsets(path)["000003.png"][1] + 40)
    pixels = measure(manifest, max_decoded=100).pixels
    mean, _ = moments([images[f"{number:06d}.png"] for number in (0, 1, 2, 4)], "L")
    np.testing.assert_allclose(pixels.mean(), mean, rtol=1e-12)
    assert pixels.num_images == 4
    assert pixels.damaged == [Finding(path.resolve(), "000003", "bytes differ")]


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, [5])
    manifest = opened(tmp_path)
    flip_bit(tmp_path / "0000.tar.index", 200)
    with pytest.raises(InputError, match=r"0000\.tar\.index is damaged .* remove it"):
        measure(manifest, max_decoded=100)


def test_a_shard_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, [5])
    manifest = opened(tmp_path)

    def failing(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(statistics, "open", failing, raising=False)
    with pytest.raises(InputError, match=r"0000\.tar or its index cannot be read \(Permission denied\)"):
        measure(manifest, max_decoded=100)


@pytest.mark.parametrize(("num_samples", "num_chosen"), [(10, 10), (10, 100), (10, 3), (1000, 7), (10**9, 10), (1, 1)])
def test_what_is_chosen_is_spread_evenly(num_samples: int, num_chosen: int) -> None:
    numbers = chosen(num_samples, num_chosen)
    count = min(num_samples, num_chosen)
    assert len(numbers) == count
    for stretch, number in enumerate(numbers.tolist()):
        assert stretch * num_samples // count <= number < (stretch + 1) * num_samples // count
    assert numbers.tolist() == chosen(num_samples, num_chosen).tolist()


def test_classes_that_take_turns_are_all_met() -> None:
    """A step of ten would see one digit only."""
    classes = Counter((chosen(10_000, 1000) % 10).tolist())
    assert len(classes) == 10
    assert min(classes.values()) > 60


def test_numbers_are_found_in_their_shards() -> None:
    sizes = [3, 0, 5, 2, 7]
    truth = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    numbers = np.array([0, 2, 3, 7, 8, 9, 16])
    found = [(shard, place) for shard, places in enumerate(by_shard(numbers, sizes)) for place in places.tolist()]
    assert found == [truth[number] for number in numbers]


def test_nothing_more_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, [30])
    manifest = opened(tmp_path)
    calls = []
    original = statistics.decode_whole
    monkeypatch.setattr(statistics, "decode_whole", lambda *arguments: calls.append(1) or original(*arguments))
    measure(manifest, max_decoded=4)
    assert len(calls) == 4
