"""Folders and archives of folders: classes, label files, what is passed over, what is refused."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.packing import class_files, left_out, pack, refusal, report, write_files
from tests.shards import encode, noise, write_tar

FLAT = {"0.png": encode(noise(0)), "1.jpg": encode(noise(1), "jpg"), "deeper/2.png": encode(noise(2))}


def archive(directory: Path, files: dict[str, bytes], kind: str, top: str = "") -> Path:
    """A folder, or an archive of it, with everything below `top`."""
    files = {top + name: content for name, content in files.items()}
    if kind == "folder":
        return write_files(directory / "source", files)
    path = directory / f"source.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
            for name, content in files.items():
                writer.writestr(name, content)
    elif kind == "tar":
        write_tar(path, files.items())
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                information = tarfile.TarInfo(name)
                information.size = len(content)
                tar.addfile(information, io.BytesIO(content))
    return path


KINDS = pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tgz"])


@KINDS
def test_folders_are_classes(tmp_path: Path, kind: str) -> None:
    files = class_files()
    packed = pack(archive(tmp_path, files, kind), tmp_path / "out")
    assert {f"{key}.png": sample.content for key, sample in packed.items()} == files
    assert {key: sample.label for key, sample in packed.items()} == {
        name.removesuffix(".png"): ["bird", "cat", "dog"].index(name.partition("/")[0]) for name in files
    }
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["bird", "cat", "dog"]
    assert report(tmp_path / "out")["parts"][""]["num_samples_by_label"] == {"0": 3, "1": 3, "2": 3}


@KINDS
def test_flat_images_have_no_labels(tmp_path: Path, kind: str) -> None:
    files = {name.replace("deeper/", ""): content for name, content in FLAT.items()}
    packed = pack(archive(tmp_path, files, kind), tmp_path / "out")
    assert {key: (sample.extension, sample.label) for key, sample in packed.items()} == {
        "0": ("png", None),
        "1": ("jpg", None),
        "2": ("png", None),
    }
    assert not (tmp_path / "out" / "classes.json").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_folder_around_everything_is_the_archives_own(tmp_path: Path, kind: str) -> None:
    packed = pack(archive(tmp_path, class_files(), kind, top="./data/photos/"), tmp_path / "out")
    assert {sample.label for sample in packed.values()} == {0, 1, 2}
    assert "cat/1" in packed


@KINDS
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "name,label\n0.png,4\n1.jpg,2\ndeeper/2.png,4\n"),
        ("labels.json", '{"0.png": 4, "1.jpg": 2, "deeper/2.png": 4}'),
        ("dataset.json", '{"labels": [["0.png", 4], ["1.jpg", 2], ["deeper/2.png", 4]]}'),
    ],
)
def test_a_label_file_rules(tmp_path: Path, kind: str, name: str, content: str) -> None:
    top = "wrapped/" if kind != "folder" else ""
    packed = pack(archive(tmp_path, {**FLAT, name: content.encode()}, kind, top), tmp_path / "out")
    assert {key: sample.label for key, sample in packed.items()} == {"0": 4, "1": 2, "deeper/2": 4}


def test_a_label_file_may_name_classes_and_leave_images_out(tmp_path: Path) -> None:
    source = archive(tmp_path, {**FLAT, "labels.csv": b"0.png,dog\n1.jpg,cat\nlost.png,eel\n"}, "folder")
    packed = pack(source, tmp_path / "out")
    assert {key: sample.label for key, sample in packed.items()} == {"0": 1, "1": 0}
    assert report(tmp_path / "out")["classes"] == ["cat", "dog", "eel"]
    assert left_out(tmp_path / "out") == {"lost.png": "is in labels.csv, but not there", "deeper/2.png": "is not in labels.csv"}


def test_stylegans_labels_may_be_null(tmp_path: Path) -> None:
    packed = pack(archive(tmp_path, {"00000/a.png": FLAT["0.png"], "dataset.json": b'{"labels": null}'}, "zip"), tmp_path / "out")
    assert [(key, sample.label) for key, sample in packed.items()] == [("00000/a", None)]


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    source = archive(tmp_path, {f"{number}/a.png": encode(noise(number)) for number in range(12)}, "folder")
    assert {key: sample.label for key, sample in pack(source, tmp_path / "out").items()} == {f"{number}/a": number for number in range(12)}


def test_what_file_managers_leave_behind_is_nothing(tmp_path: Path) -> None:
    junk = {"__MACOSX/cat/._0.png": b"x", "cat/._0.png": b"x", ".hidden/a.png": b"x", ".DS_Store": b"x"}
    for kind in ("folder", "zip"):
        assert len(pack(archive(tmp_path, {**class_files(), **junk, "README.txt": b"x"}, kind), tmp_path / f"out-{kind}")) == 9
        assert report(tmp_path / f"out-{kind}")["num_other_files"] == 1


def test_links_in_a_folder_are_followed_and_broken_ones_named(tmp_path: Path) -> None:
    elsewhere = write_files(tmp_path / "elsewhere", {"x/0.png": FLAT["0.png"]})
    source = write_files(tmp_path / "source", {"cat/1.png": encode(noise(1))})
    (source / "cat" / "2.png").symlink_to(elsewhere / "x" / "0.png")
    (source / "cat" / "3.png").symlink_to(tmp_path / "nowhere.png")
    (source / "dog").symlink_to(elsewhere / "x")
    os.mkfifo(source / "cat" / "4.png")
    packed = pack(source, tmp_path / "out")
    assert {key: sample.label for key, sample in packed.items()} == {"cat/1": 0, "cat/2": 0, "dog/0": 1}
    assert left_out(tmp_path / "out") == dict.fromkeys(["cat/3.png", "cat/4.png"], "is a link to nothing, or no plain file")


def test_links_in_an_archive_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path, class_files(), "tar")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("cat/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert len(pack(path, tmp_path / "out")) == 9
    assert report(tmp_path / "out")["num_links_passed_over"] == 1
    assert "passed over: 1" in capsys.readouterr().out


def test_what_cannot_be_read_is_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = class_files()["cat/0.png"][:60]
    source = archive(tmp_path, {**class_files(), "cat/half.png": half, "cat/empty.jpg": b"", "dog/text.png": b"hello"}, "folder")
    assert len(pack(source, tmp_path / "out")) == 9
    assert sorted(left_out(tmp_path / "out")) == ["cat/empty.jpg", "cat/half.png", "dog/text.png"]
    assert "3" in capsys.readouterr().out.partition("Left out")[2].partition("\n")[0]
    sentence = refusal_of(tmp_path, capsys, source, "--on-error", "fail", "--order", "name")
    assert "'cat/empty.jpg', which is not a readable image" in sentence


def refusal_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> str:
    return refusal(capsys, source, tmp_path / "refused", *options)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.txt": b"x"}, "holds no image"),
        ({"a.png": FLAT["0.png"], "cat/b.png": FLAT["0.png"]}, "images beside its folders (a.png) and in them (cat/b.png)"),
        ({"train/a.png": FLAT["0.png"], "test/b.png": FLAT["0.png"]}, "test and train are parts of a data set"),
        ({**FLAT, "labels.csv": b"0.png,1", "labels.json": b"{}"}, "labels.csv and labels.json"),
        ({**FLAT, "labels.csv": b"x/0.png,1"}, "'x/0.png', but no image"),
        ({**FLAT, "labels.json": b"{"}, "labels.json of SRC cannot be read"),
        ({"a.png": FLAT["0.png"], "a.cls": b"1"}, "labels beside its images (a.cls)"),
        ({"a.png": b"x", "b.png": b""}, "no image that can be packed ('"),
    ],
    ids=lambda value: value.replace(" ", "-")[:20] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_no_folder_of_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes], words: str, kind: str
) -> None:
    assert words in refusal_of(tmp_path, capsys, archive(tmp_path, files, kind))


def test_a_folder_that_links_to_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_files(tmp_path / "source", class_files())
    (source / "cat" / "again").symlink_to(source)
    assert "a link to a folder that it lies in" in refusal_of(tmp_path, capsys, source)


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_name_that_leads_out_of_an_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert "leads out of it" in refusal_of(tmp_path, capsys, archive(tmp_path, {**class_files(), "../../evil.png": b"x"}, kind))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_cut_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = archive(tmp_path, class_files(30), kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in refusal_of(tmp_path, capsys, path)


def test_two_names_with_one_key_are_both_packed(tmp_path: Path) -> None:
    source = archive(tmp_path, {"a.png": encode(noise(0)), "a.jpg": encode(noise(1), "jpg"), "a.b.png": encode(noise(2))}, "folder")
    packed = pack(source, tmp_path / "out")
    assert {key: sample.extension for key, sample in packed.items()} == {"a": "jpg", "a_2": "png", "a_b": "png"}
    assert np.array_equal(packed["a_2"].pixels, noise(0))


def test_names_of_every_kind_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not UTF-8, with line breaks, with dots: tars, JSON and terminals cope."""
    source = write_files(tmp_path / "source", {"line\nbreak.png": encode(noise(0)), "a.b.c.png": encode(noise(1))})
    (source / os.fsdecode(b"caf\xe9.png")).write_bytes(encode(noise(2)))
    (source / os.fsdecode(b"broken\xe9.png")).write_bytes(b"x")
    packed = pack(source, tmp_path / "out")
    assert {key: sample.content for key, sample in packed.items()} == {
        "line_break": encode(noise(0)),
        "a_b_c": encode(noise(1)),
        "caf_": encode(noise(2)),
    }
    assert "'broken\\udce9.png'" in capsys.readouterr().out
    assert list(left_out(tmp_path / "out")) == ["broken\udce9.png"]


def test_formats_that_training_does_not_read_become_png(tmp_path: Path) -> None:
    source = archive(
        tmp_path, {"a.gif": encode(noise(0), "gif"), "b.tif": encode(noise(1), "tiff"), "c.JPG": encode(noise(2), "jpg")}, "folder"
    )
    packed = pack(source, tmp_path / "out")
    assert {key: sample.extension for key, sample in packed.items()} == {"a": "png", "b": "png", "c": "jpg"}
    assert packed["c"].content == encode(noise(2), "jpg")
    assert list(pack(source, tmp_path / "kept", "--encoding", "keep")) == ["c"]
    assert sorted(left_out(tmp_path / "kept")) == ["a.gif", "b.tif"]
