"""What the three commands have in common."""

from pathlib import Path

import pytest

from distgan.config import Data
from distgan.data.__main__ import main
from distgan.data.inspection.command import MAX_SKIPPED_SHARE
from distgan.data.remote.cache import CacheSettings


@pytest.mark.parametrize("command", ["index", "verify", "stats"])
@pytest.mark.parametrize("url", ["missing", "x-{0..2.tar", "."])
def test_refusals_speak_of_the_argument(
    command: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not of the setting of a run that it corresponds to."""
    monkeypatch.chdir(tmp_path)
    assert main([command, url]) == 2
    told = capsys.readouterr().err
    assert f"URL is {url!r}" in told
    assert "data.url" not in told


def test_defaults_are_those_of_a_run() -> None:
    """The commands import no torch, and so not the settings."""
    defaults = Data()
    assert defaults.max_skipped_share == MAX_SKIPPED_SHARE
    assert defaults.cache_gigabytes * 1e9 == CacheSettings.default().limit_bytes
