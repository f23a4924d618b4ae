"""data.url -> shards."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from distgan.data.digits import ensure_packed
from distgan.data.shards.urls import named_locally, resolve, would_name
from distgan.errors import InputError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A directory of a-0000.tar to a-0003.tar, b.tar and other files."""
    directory = (tmp_path / "shards").resolve()
    (directory / "below").mkdir(parents=True)
    for name in ["b.tar", *(f"a-{number:04d}.tar" for number in reversed(range(4))), "a.txt", "a-0000.tar.index", "below/c.tar"]:
        (directory / name).touch()
    return directory


def names(paths: Iterable[str | Path]) -> list[str]:
    return [Path(path).name for path in paths]


def refusal(url: str) -> str:
    with pytest.raises(InputError) as caught:
        resolve(url)
    sentence = str(caught.value)
    assert sentence.startswith(f"data.url is {url!r}")
    return sentence


def test_a_directory_is_all_of_its_tars_in_order(shards: Path) -> None:
    assert resolve(str(shards)) == [str(shards / name) for name in ["a-0000.tar", "a-0001.tar", "a-0002.tar", "a-0003.tar", "b.tar"]]
    assert resolve(f"{shards}/") == resolve(str(shards))


def test_one_tar(shards: Path) -> None:
    assert resolve(f"{shards}/b.tar") == [str(shards / "b.tar")]


def test_braces_keep_their_order(shards: Path) -> None:
    assert names(resolve(f"{shards}/a-{{0001..0003}}.tar")) == ["a-0001.tar", "a-0002.tar", "a-0003.tar"]
    assert names(resolve(f"{shards}/{{b,a-0002}}.tar")) == ["b.tar", "a-0002.tar"]
    assert names(resolve(f"{shards}/{{below,b.tar}}")) == ["c.tar", "b.tar"]


def test_paths_are_absolute(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed from another directory, perhaps."""
    monkeypatch.chdir(shards.parent)
    assert resolve("shards/b.tar") == [str(shards / "b.tar")]
    assert resolve("shards/../shards") == resolve(str(shards))


def test_home(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shards.parent))
    assert resolve("~/shards/{a-0000,b}.tar") == [str(shards / "a-0000.tar"), str(shards / "b.tar")]


def test_digits_are_the_embedded_ones() -> None:
    assert names(resolve("digits")) == [f"{number:06d}.tar" for number in range(8)]
    assert resolve("digits") == resolve(str(ensure_packed()))


def test_what_is_named_one_by_one_need_not_be_there(shards: Path) -> None:
    assert named_locally(f"{shards}/{{a-0003,a-0004,b}}.tar") == [shards / name for name in ["a-0003.tar", "a-0004.tar", "b.tar"]]
    assert list(map(str, named_locally(f"{shards}/*.tar"))) == resolve(str(shards))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a-0004.tar", "c.tar"]),
        ("/", ["a-0004.tar", "c.tar"]),
        ("/*.tar", ["a-0004.tar", "c.tar"]),
        ("/a-*.tar", ["a-0004.tar"]),
        ("/a-{0003..0005}.tar", ["a-0004.tar"]),
        ("/b.tar", []),
        ("/below", []),
        ("/../shards/{b,c}.tar", ["c.tar"]),
    ],
)
def test_what_would_be_named_if_it_were_there(shards: Path, pattern: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pattern does name once it is there."""
    gone = [shards / "a-0004.tar", shards / "c.tar"]
    assert names(would_name(f"{shards}{pattern}", gone)) == expected
    monkeypatch.chdir(shards.parent)
    assert names(would_name(f"shards{pattern}", gone)) == expected
    for path in gone:
        path.touch()
    assert [path.name for path in gone if path in named_locally(f"{shards}{pattern}")] == expected


def test_nothing_there(shards: Path, tmp_path: Path) -> None:
    assert "matches nothing" in refusal(f"{shards}/x.tar")
    assert f"{shards}/x-00.tar does not exist" in refusal(f"{shards}/x-{{00..09}}.tar")
    (tmp_path / "empty").mkdir()
    assert "holds no *.tar" in refusal(str(tmp_path / "empty"))


def test_missing_shards_are_counted(shards: Path) -> None:
    sentence = refusal(f"{shards}/a-{{0002..0008}}.tar")
    assert "lacks 5 of its 7 shards" in sentence
    assert f"{shards}/a-0004.tar" in sentence


@pytest.mark.parametrize("url", ["x-{0000..0003.tar", "x-0000}.tar", "{a,{b}.tar"])
def test_braces_that_do_not_pair(url: str) -> None:
    assert "braces" in refusal(url)


@pytest.mark.parametrize("url", ["ftp://host/x.tar", "file:///x.tar", "hdfs://a/{0..3}.tar"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=rf"data\.url begins with '{url.partition(':')[0]}:', which is not read; set it to a path, or"):
        resolve(url)


@pytest.mark.parametrize("url", ["pipe:curl http://a/b.tar", "pipe:cat {0..3}.tar"])
def test_commands_are_refused(url: str) -> None:
    """They run a shell in webdataset."""
    assert "set data.mode to stream" in refusal(url)


@pytest.mark.parametrize("url", ["~no-such-user-here/x.tar", "x" * 300 + ".tar"], ids=["user unknown", "name too long"])
def test_a_path_that_the_system_refuses(url: str) -> None:
    refusal(url)


def test_a_directory_without_shards_says_what_may_have_been_meant(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert f"or pack the images there (python -m distgan.data pack {tmp_path} shards)" in refusal(str(tmp_path))
    (tmp_path / "a.tar.gz").touch()
    assert "unpack them, or stream them (data.mode stream" in refusal(str(tmp_path))
    (tmp_path / "train" / "0.tar").touch()
    assert f"did you mean {tmp_path}/train?" in refusal(str(tmp_path))
