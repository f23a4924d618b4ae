"""The embedded digits: packed once, the same bytes every time, and what scikit-learn ships."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from distgan.data import digits, writer
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from distgan.errors import InputError
from tests.shards import read_webdataset

NAMES = [f"{number:06d}.tar" for number in range(8)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shards in a cache of their own; tests only read them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("digits-cache")))
        yield digits.ensure_packed()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.tar"))}


def test_the_images_are_scikit_learns() -> None:
    images, labels = digits.load_images()
    assert (images.dtype, images.shape) == (np.uint8, (1797, 32, 32))
    assert (labels.dtype, labels.shape) == (np.int64, (1797,))
    source, target = load_digits(return_X_y=True)
    source = source.reshape(1797, 8, 8)
    assert np.array_equal(labels, target)
    small = images.reshape(1797, 8, 4, 8, 4).mean((2, 4))
    assert np.corrcoef(small.ravel(), source.ravel())[0, 1] > 0.98
    assert min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(small, source, strict=True)) > 0.9
    assert images.min() == 0
    assert images.max() == 255


def test_the_shards_are_complete(packed: Path) -> None:
    opened = open_manifest(resolve(str(packed)))
    assert [shard.path.name for shard in opened.shards] == NAMES
    assert (opened.num_samples, opened.num_classes, opened.channels, opened.image_size(None)) == (1797, 10, 1, 32)
    opened.check_labels()


def test_webdataset_reads_the_same_as_the_index(packed: Path) -> None:
    samples = read_webdataset(sorted(packed.glob("*.tar")))
    images, labels = digits.load_images()
    assert [sample["__key__"] for sample in samples] == [f"{number:06d}" for number in range(1797)]
    assert [int(sample["cls"]) for sample in samples] == labels.tolist()
    decoded = np.stack([np.array(Image.open(io.BytesIO(sample["png"]))) for sample in samples])
    assert np.array_equal(decoded, images)

    found = []
    for shard in open_manifest(resolve(str(packed))).shards:
        content = shard.path.read_bytes()
        found += [(content[int(row["offset"]) :][: int(row["bytes"])], int(row["label"])) for row in shard.load_index()]
    assert found == [(sample["png"], int(sample["cls"])) for sample in samples]


def test_packing_is_reproducible(packed: Path, user_cache: Path) -> None:
    """Also with what a killed process left behind."""
    leftover = user_cache / "distgan" / "datasets" / ".digits-32-v1.999999.tmp"
    leftover.mkdir(parents=True)
    (leftover / "000000.tar").write_bytes(b"half")
    again = digits.ensure_packed()
    assert again.is_relative_to(user_cache)
    assert again != packed
    assert contents(again) == contents(packed)
    assert list(contents(again)) == NAMES


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples: where only the writing matters."""
    samples = [writer.Sample(f"{number:06d}", b"no image", number) for number in range(10)]
    monkeypatch.setattr(digits, "_samples", lambda: samples)


@pytest.mark.usefixtures("few_samples")
def test_what_is_there_is_not_packed_again() -> None:
    directory = digits.ensure_packed()
    (directory / "000000.tar").write_bytes(b"mark")
    assert digits.ensure_packed() == directory
    assert (directory / "000000.tar").read_bytes() == b"mark"


@pytest.mark.usefixtures("few_samples")
def test_a_leftover_of_a_process_of_the_same_number_does_not_matter(user_cache: Path) -> None:
    """In a container every process has the number of the one that was killed before it."""
    leftover = user_cache / "distgan" / "datasets" / f".digits-32-v1.{os.getpid()}.tmp"
    leftover.mkdir(parents=True)
    (leftover / "000007.tar").write_bytes(b"half")
    assert list(contents(digits.ensure_packed())) == ["000000.tar"]


@pytest.mark.usefixtures("few_samples")
def test_a_failure_leaves_nothing(user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(writer.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match=r"No space left on device.*XDG_CACHE_HOME"):
            digits.ensure_packed()
    assert [path.name for path in (user_cache / "distgan" / "datasets").iterdir() if path.is_dir()] == []
    assert list(contents(digits.ensure_packed())) == ["000000.tar"]


@pytest.mark.usefixtures("few_samples")
def test_what_is_there_needs_no_lock() -> None:
    """A read-only cache that was filled before, as in an image of a container."""
    directory = digits.ensure_packed()
    lock = directory.with_name(".digits-32-v1.lock")
    lock.unlink()
    lock.mkdir()  # which nobody can open for writing
    assert digits.ensure_packed() == directory


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        digits.ensure_packed()


KILLED = """
import os, signal
from distgan.data import digits, writer
digits._samples = lambda: [writer.Sample(f"{number:06d}", b"no image", number) for number in range(10)]
writer.os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
digits.ensure_packed()
"""


@pytest.mark.usefixtures("few_samples")
def test_a_process_killed_while_packing_does_not_matter(user_cache: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    datasets = user_cache / "distgan" / "datasets"
    assert not (datasets / "digits-32-v1").exists()
    assert any(path.suffix == ".tmp" for path in datasets.iterdir())
    assert list(contents(digits.ensure_packed())) == ["000000.tar"]


def test_two_processes_at_once_pack_once(packed: Path, user_cache: Path) -> None:
    code = "from distgan.data import digits; print(digits.ensure_packed())"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0]
    (path,) = paths
    assert Path(path).is_relative_to(user_cache)
    assert contents(Path(path)) == contents(packed)
    assert {entry.name for entry in Path(path).parent.iterdir()} == {"digits-32-v1", ".digits-32-v1.lock"}
