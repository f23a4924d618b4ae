"""Label files in their forms, the map of --labels, and sentences for what is neither."""

import json
from pathlib import Path

import pytest

from distgan.data.packing.items import FileRange, Item, Source
from distgan.data.packing.labels import map_labels, parse_label_file, read_label_map, sorted_classes
from distgan.errors import InputError

NUMBERS = {"a.png": 3, "b/c.png": 0}
WORDS = ({"a.png": 1, "b/c.png": 0}, ["cat", "dog"])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("labels.csv", "a.png,3\nb/c.png,0\n", (NUMBERS, None)),
        ("labels.csv", "name,label\r\na.png,3\r\nb/c.png,0\r\n", (NUMBERS, None)),
        ("labels.csv", "\ufeffLabel,size,File\n3,9,a.png\n0,8,./b/c.png\n\n", (NUMBERS, None)),
        ("labels.csv", 'a.png,dog\n"b/c.png","cat"', WORDS),
        ("labels.csv", "label,whatever\n3,a.png\n0,b/c.png\n", (NUMBERS, None)),
        ("labels.csv", "a.png,3\na.png,3\nb/c.png,0\n", (NUMBERS, None)),
        ("labels.json", json.dumps(NUMBERS), (NUMBERS, None)),
        ("labels.json", json.dumps([["a.png", 3], ["b/c.png", 0]]), (NUMBERS, None)),
        ("labels.json", json.dumps({"a.png": "dog", "b/c.png": "cat"}), WORDS),
        ("labels.json", json.dumps({"a.png": "3", "b/c.png": "0"}), (NUMBERS, None)),
        ("dataset.json", json.dumps({"labels": [["a.png", 3], ["b/c.png", 0]]}), (NUMBERS, None)),
        ("dataset.json", json.dumps({"labels": None}), ({}, None)),
    ],
)
def test_forms(name: str, content: str, expected: tuple[dict, list | None]) -> None:
    assert parse_label_file(name, content.encode()) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b"", "empty"),
        ("labels.csv", b"a.png\n", "2 columns"),
        ("labels.csv", b"a.png,1,2\n", "2 columns"),
        ("labels.csv", b"name,label\na.png\n", "2 columns"),
        ("labels.csv", b"label\n1\n", "2 columns"),
        ("labels.csv", b"\xff\xfe,1\n", "utf-8"),
        ("labels.csv", b'"a.png,1\n', "cannot be read"),
        ("labels.csv", b"a.png,\nb.png,cat\n", "empty label for 'a.png'"),
        ("labels.csv", b"a.png,1\n./a.png,2\n", "two labels, 1 and 2"),
        ("labels.json", b"{", "cannot be read"),
        ("labels.json", b"[" * 100_000, "cannot be read"),
        ("labels.json", b"3", "neither an object nor a list"),
        ("labels.json", b"[]", "neither an object nor a list"),
        ("labels.json", b'["a.png"]', "no pair"),
        ("labels.json", b'{"a.png": -1}', "-1"),
        ("labels.json", b'{"a.png": 1.5}', "1.5"),
        ("labels.json", b'{"a.png": true}', "true"),
        ("labels.json", b'{"a.png": [0, 1]}', "[0, 1]"),
        ("labels.json", b'{"a.png": 2147483648}', "2147483648"),
        ("labels.json", b'{"a.png": 1, "b.png": "cat"}', "numbers and words"),
    ],
)
def test_what_is_no_label_file_is_refused(name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_label_file(name, content)
    words = words.replace("two labels, 1 and 2", "two labels, '1' and '2'")
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_classes_are_sorted_and_numbers_by_value() -> None:
    assert sorted_classes(["dog", "Cat", "10", "9"]) == ["10", "9", "Cat", "dog"]
    assert sorted_classes(map(str, range(12))) == [str(number) for number in range(12)]
    assert sorted_classes(["00001", "00000"]) == ["00000", "00001"]
    assert sorted_classes(["9" * 5000, "1"]) == ["1", "9" * 5000]  # longer than Python turns into a number


def source(*labels: int | None, names: list[str] | None = None) -> Source:
    return Source("folder", {"train": [Item(f"{number}.png", FileRange("", 0, 1), label) for number, label in enumerate(labels)]}, names)


def test_a_map_renames_joins_and_leaves_out() -> None:
    mapped = map_labels(source(0, 1, 2, 2, None, names=["cat", "dog", "eel"]), {"dog": 0, "cat": 2})
    assert [(item.name, item.label) for item in mapped.parts["train"]] == [("0.png", 2), ("1.png", 0)]
    assert mapped.class_names == ["dog", "1", "cat"]
    assert [(entry.name, entry.reason) for entry in mapped.left_out] == [
        ("images without a label", "is not in --labels (1 images)"),
        ("class eel", "is not in --labels (2 images)"),
    ]
    assert map_labels(source(0, 1, names=["cat", "dog"]), {"dog": 0, "cat": 0}).class_names == ["dog+cat"]


def test_a_map_takes_old_numbers_where_classes_have_no_names() -> None:
    mapped = map_labels(source(7, 3, 7), {"7": 0, "3": 1})
    assert [item.label for item in mapped.parts["train"]] == [0, 1, 0]


def test_a_map_of_unknown_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"'cta', which is no class of SRC \(cat, dog\)"):
        map_labels(source(0, 1, names=["cat", "dog"]), {"cta": 0})
    with pytest.raises(InputError, match="no labels"):
        map_labels(source(None, None), {"0": 1})


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"a": -1}', '{"a": "0"}', '{"a": true}', '{"a": 1.0}', '{"a": 1048576}', "[" * 100_000]
)
def test_a_map_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InputError, match=r"--labels is .*map.json"):
        read_label_map(tmp_path / "map.json")


def test_a_map_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_label_map(tmp_path / "map.json")
