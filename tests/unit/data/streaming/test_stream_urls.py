"""data.url -> what is streamed."""

from pathlib import Path

import pytest

from distgan.data.shards import urls
from distgan.data.streaming.stream_urls import resolve
from distgan.errors import InputError


def test_paths_are_those_of_indexed_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        (tmp_path / f"{number}.tar").touch()
    (tmp_path / "x.tar.gz").touch()
    assert resolve("{2..3}.tar") == [str(tmp_path.resolve() / f"{number}.tar") for number in (2, 3)]
    assert resolve(str(tmp_path)) == urls.resolve(str(tmp_path))
    assert resolve("x.tar.gz") == [str(tmp_path.resolve() / "x.tar.gz")]


def test_braces_make_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("https://host/{a,b}-{0..1}.tar") == [f"https://host/{name}.tar" for name in ("a-0", "a-1", "b-0", "b-1")]
    assert resolve("pipe:cat {08..10}.tar") == ["pipe:cat 08.tar", "pipe:cat 09.tar", "pipe:cat 10.tar"]


@pytest.mark.parametrize("command", [r"pipe:sed 's/\t/ /' x", "pipe:xargs -I{} cat {}", "pipe:awk '{print $1}' x", "pipe:cat ${HOME}/x"])
def test_a_command_reaches_the_shell_as_it_was_written(command: str) -> None:
    """Where its braces are no pattern."""
    assert resolve(command) == [command]


@pytest.mark.parametrize("url", ["s3://bucket/x.tar", "file:///x.tar", "{http://a,ftp://b}/x.tar", "http:/x.tar", "-", "{pipe:ls,a.tar}"])
def test_what_is_not_streamed_is_refused(url: str) -> None:
    """The standard input, too, which would be webdataset's '-'."""
    with pytest.raises(InputError, match=r"data\.url (is|begins with)"):
        resolve(url)
