"""Sources of bare pixels: IDX, CIFAR, .npz and the digits, against numpy and scikit-learn."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distgan.data import digits
from tests.packing import Packed, cifar_records, idx, pack, refusal, report, samples, write_files, write_mnist
from tests.shards import flip_bit, noise

NAMES_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def check(packed: dict[str, Packed], images: np.ndarray, labels: np.ndarray | None, prefix: str = "") -> None:
    assert sorted(packed) == [f"{prefix}{number:08d}" for number in range(len(images))]
    for number, image in enumerate(images):
        sample = packed[f"{prefix}{number:08d}"]
        assert np.array_equal(sample.pixels, image)
        assert sample.label == (None if labels is None else labels[number])


def colours(number: int, size: int) -> np.ndarray:
    return np.stack([noise(number + place, 32, 32, 3) for place in range(size)])


@pytest.mark.parametrize("compressed", [True, False])
def test_mnist(tmp_path: Path, compressed: bool) -> None:
    made = write_mnist(tmp_path / "mnist", compressed=compressed)
    check(pack(tmp_path / "mnist", tmp_path / "train"), *made["train"])
    assert report(tmp_path / "train")["left_out"] == [{"name": "the test part", "reason": "3 images; --split both packs it, too"}]
    check(pack(tmp_path / "mnist", tmp_path / "test", "--split", "test"), *made["t10k"])
    assert pack(tmp_path / "mnist", tmp_path / "both", "--split", "both", "--encoding", "raw") == {}
    check(samples(tmp_path / "both" / "train"), *made["train"])
    check(samples(tmp_path / "both" / "test"), *made["t10k"])


def test_one_file_of_idx_images_with_its_labels_beside_it(tmp_path: Path) -> None:
    made = write_mnist(tmp_path / "mnist")
    check(pack(tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz", tmp_path / "out"), *made["t10k"])
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    check(pack(tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz", tmp_path / "unlabelled"), made["t10k"][0], None)


def test_other_names_of_idx_files(tmp_path: Path) -> None:
    images, labels = np.stack([noise(number, 4, 6) for number in range(3)]), np.array([2, 0, 1], np.uint8)
    files = {"x-images.idx3-ubyte": idx(images), "x-labels.idx1-ubyte.gz": gzip.compress(idx(labels))}
    check(pack(write_files(tmp_path / "x", files), tmp_path / "out"), images, labels)


def test_plain_idx_files_come_before_their_compressed_twins(tmp_path: Path) -> None:
    made = write_mnist(tmp_path / "mnist", compressed=False)
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"stale")
    check(pack(tmp_path / "mnist", tmp_path / "out"), *made["train"])


ONE = idx(np.zeros((2, 3, 3), np.uint8))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (ONE[:-1], None, "promises 34 bytes (2x3x3), but there are 33"),
        (ONE + b"x", None, "promises 34 bytes"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), None, "(4294967295x4294967295x4294967295)"),
        (ONE[:10], None, "does not begin as an IDX file"),
        (struct.pack(">HBB3I", 0, 0x0D, 3, 1, 1, 1) + bytes(4), None, "does not begin as an IDX file of uint8"),
        (idx(np.zeros((2, 3), np.uint8)), None, "does not begin as an IDX file"),
        (ONE, idx(np.zeros(3, np.uint8)), "2 images in train-images-idx3-ubyte, but 3 labels"),
        (ONE, b"hello", "train-labels-idx1-ubyte, which does not begin"),
        (idx(np.zeros((0, 3, 3), np.uint8)), None, "holds no image"),
        (idx(np.zeros((3, 0, 3), np.uint8)), None, "3x0 pixels"),
    ],
)
def test_idx_files_that_lie_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: bytes, labels: bytes | None, words: str
) -> None:
    files = {"train-images-idx3-ubyte": images} | ({} if labels is None else {"train-labels-idx1-ubyte": labels})
    assert words in refusal(capsys, write_files(tmp_path / "mnist", files), tmp_path / "out")


def test_a_cut_idx_gz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged or cut short" in refusal(capsys, tmp_path / "mnist", tmp_path / "out")


def test_two_sets_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"a-train-images-idx3-ubyte": ONE, "b-train-images-idx3-ubyte": ONE}
    assert "several files of images for train" in refusal(capsys, write_files(tmp_path / "mnist", files), tmp_path / "out")


def cifar_10() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    made = {
        name: (colours(10 * place, 3), np.arange(3 * place, 3 * place + 3)) for place, name in enumerate(("data_batch_1", "data_batch_2"))
    }
    made["test_batch"] = (colours(50, 2), np.array([9, 0]))
    files = {f"{name}.bin": cifar_records(images, labels) for name, (images, labels) in made.items()}
    return files | {"batches.meta.txt": "\n".join([*NAMES_10, "", ""]).encode(), "readme.html": b"x"}, made


def write_tgz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            tar.addfile(information, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_cifar_10(tmp_path: Path, form: str) -> None:
    files, made = cifar_10()
    if form == "folder":
        source = write_files(tmp_path / "cifar", files)
    else:
        source = write_tgz(
            tmp_path / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}
        )
    pack(source, tmp_path / "out", "--split", "both")
    train = samples(tmp_path / "out" / "train")
    for name in ("data_batch_1", "data_batch_2"):
        check({key: sample for key, sample in train.items() if key.startswith(name)}, *made[name], prefix=f"{name}/")
    assert len(train) == 6
    check(samples(tmp_path / "out" / "test"), *made["test_batch"], prefix="test_batch/")
    assert report(tmp_path / "out")["classes"] == NAMES_10


@pytest.mark.parametrize(("option", "column"), [([], 1), (["--cifar-labels", "fine"], 1), (["--cifar-labels", "coarse"], 0)])
def test_cifar_100(tmp_path: Path, option: list[str], column: int) -> None:
    images, columns = colours(0, 4), (np.array([19, 0, 3, 7]), np.array([99, 42, 0, 21]))
    names = {"fine": [f"fine{n}" for n in range(100)], "coarse": [f"coarse{n}" for n in range(20)]}
    files: dict[str, bytes | str] = {f"{part}.bin": cifar_records(images, *columns) for part in ("train", "test")}
    files |= {f"{kind}_label_names.txt": "\n".join(words) for kind, words in names.items()}
    check(pack(write_files(tmp_path / "cifar", files), tmp_path / "out", *option), images, columns[column], prefix="train/")
    assert report(tmp_path / "out")["classes"] == names["coarse" if column == 0 else "fine"]


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({"data_batch_1.bin": cifar_records(colours(0, 2), np.array([1, 2]))[:-1]}, [], "no whole number of records of 3073"),
        ({"data_batch_1.bin": b""}, [], "no whole number of records"),
        ({"data_batch_1.bin": cifar_records(colours(0, 2), np.array([1, 10]))}, [], "the label 10"),
        ({"data_batch_1.bin": cifar_records(colours(0, 1), np.array([1]))}, ["--cifar-labels", "fine"], "SRC is CIFAR-10"),
        ({"data_batch_1.bin": cifar_records(colours(0, 1), np.array([1])), "batches.meta.txt": b"a b"}, [], "2 names for 10 classes"),
        ({"data_batch_1.bin": cifar_records(colours(0, 1), np.array([1])), "train.bin": b""}, [], "files of CIFAR-10 and CIFAR-100"),
        ({"data_batch_1": b"\x80", "batches.meta": b"\x80"}, [], "pickles, which are never opened"),
        ({"test_batch.bin": cifar_records(colours(0, 1), np.array([1]))}, [], "nothing for the part 'train'"),
    ],
)
def test_what_is_not_cifar_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes], options: list[str], words: str
) -> None:
    assert words in refusal(capsys, write_files(tmp_path / "cifar", files), tmp_path / "out", *options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("arr_0", "arr_1"), ("x_train", "y_train")])
def test_npz(tmp_path: Path, save, names: tuple[str, str]) -> None:
    images, labels = np.stack([noise(number, 5, 7, 3) for number in range(4)]), np.array([[3], [0], [2], [3]])
    save(tmp_path / "x.npz", **{names[0]: images, names[1]: labels})
    check(pack(tmp_path / "x.npz", tmp_path / "out"), images, labels[:, 0])


@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 6, 5, 1), (3, 6, 3)])
def test_npz_of_grey_images_without_labels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The last is three images of 6x3 pixels, not one in colour."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    check(pack(tmp_path / "x.npz", tmp_path / "out"), images.reshape(shape[:3]), None)


def test_npz_with_a_test_part(tmp_path: Path) -> None:
    arrays = {"x_train": colours(0, 3), "y_train": np.arange(3), "x_test": colours(9, 2), "y_test": np.arange(2, dtype=np.int8)}
    np.savez(tmp_path / "x.npz", **arrays)
    pack(tmp_path / "x.npz", tmp_path / "out", "--split", "both")
    check(samples(tmp_path / "out" / "train"), arrays["x_train"], arrays["y_train"])
    check(samples(tmp_path / "out" / "test"), arrays["x_test"], arrays["y_test"])


GOOD = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": GOOD.astype(np.float32)}, "float32 [2, 4, 4]"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "uint8 [2, 3, 4, 4]"),
        ({"images": np.array([{"a": 1}, {}])}, "never loaded"),
        ({"images": GOOD, "labels": np.array([0, None])}, "never loaded"),
        ({"images": GOOD, "labels": np.array([0.0, 1.0])}, "float64 [2]"),
        ({"images": GOOD, "labels": np.array([0, -1])}, "from -1 to 0"),
        ({"images": GOOD, "labels": np.array([0, 1, 2])}, "3 labels"),
        ({"images": GOOD, "labels": np.array([0, 2**40])}, str(2**40)),
        ({"images": np.asfortranarray(np.zeros((2, 4, 5), np.uint8))}, "Fortran order"),
        ({"images": GOOD, "x": GOOD}, "images and x"),
        ({"pictures": GOOD}, "has pictures and no array of images"),
        ({"images": GOOD[:0]}, "holds no image"),
    ],
)
def test_arrays_that_are_no_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
    assert words in refusal(capsys, tmp_path / "x.npz", tmp_path / "out")


@pytest.mark.parametrize("claim", [(2**40, 2**10, 2**10), (2, 4, 5), (-2, 4, 4)])
def test_a_header_that_claims_more_than_there_is_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], claim: tuple[int, ...]
) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|u1", "fortran_order": False, "shape": claim})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content.getvalue() + GOOD.tobytes())
    assert "which are not there" in refusal(capsys, tmp_path / "x.npz", tmp_path / "out")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_in_an_npz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], save) -> None:
    save(tmp_path / "x.npz", images=colours(0, 4))
    for offset in (6000, 0, 33):  # the array, its local header, the name in there
        flip_bit(tmp_path / "x.npz", offset)
        assert "damaged or cut short" in refusal(capsys, tmp_path / "x.npz", tmp_path / "out")
        flip_bit(tmp_path / "x.npz", offset)


def test_the_digits_are_the_embedded_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check(pack("digits", tmp_path / "out", "--encoding", "raw"), *digits.load_images())
    assert report(tmp_path / "out")["classes"] == list("0123456789")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert "also a path here" in refusal(capsys, "digits", tmp_path / "other")
