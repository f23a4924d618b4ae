"""Classes: counted by label, named by the classes.json beside the shards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distgan.data.inspection.classes import Class, count, read_names
from distgan.errors import InputError


def write(directory: Path, content: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "classes.json").write_text(json.dumps(content))
    return directory


def test_classes_are_counted_and_named() -> None:
    labels = np.array([2, 0, 2, -1, 4, 2], np.int32)
    assert count(labels, ["zero", "one", "two"]) == [
        Class(0, "zero", 1),
        Class(1, "one", 0),
        Class(2, "two", 3),
        Class(4, None, 1),
    ]
    assert [one.label for one in count(labels, [])] == [0, 2, 4]
    assert count(np.array([-1], np.int32), []) == []


def test_the_highest_label_costs_no_memory() -> None:
    """It may be a mistake: 2^31 counters would take 16 GiB."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); import numpy as np\n"
        "from distgan.data.inspection.classes import count\n"
        "print(count(np.array([0, 2**31 - 1], np.int32), [])[-1])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "Class(label=2147483647, name=None, num_samples=1)"


def test_names_lie_beside_the_shards(tmp_path: Path) -> None:
    assert read_names([tmp_path]) == []
    assert read_names([write(tmp_path / "a", ["null", "eins", "zwei"]), tmp_path]) == ["null", "eins", "zwei"]
    assert read_names([tmp_path / "a", write(tmp_path / "b", ["null", "eins", "zwei"])]) == ["null", "eins", "zwei"]


def test_names_lie_above_the_parts_of_a_set(tmp_path: Path) -> None:
    """As pack puts them; above any other directory lies something else."""
    for name in ("train", "test", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert read_names([tmp_path / "train", tmp_path / "test"]) == ["cat", "dog"]
    assert read_names([tmp_path / "photos"]) == []


def test_names_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/a/classes\.json and {tmp_path}/b/classes\.json name the classes differently"):
        read_names([write(tmp_path / "a", ["null"]), write(tmp_path / "b", ["eins"])])


@pytest.mark.parametrize("content", ['{"0": "null"}', "[0, 1]", '"abc"', "null", "7"])
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json is not a list of names"):
        read_names([tmp_path])


@pytest.mark.parametrize("content", [b"[", b"", b"\xff\xfe[", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.json").write_bytes(content)
    with pytest.raises(InputError, match=r"classes\.json is not valid JSON"):
        read_names([tmp_path])
