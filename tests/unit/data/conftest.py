from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distgan.batch import BatchLayout
from distgan.data.streaming.stream_reader import StreamReader
from tests.streams import ONE_RANK, Start


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test here sees or leaves anything in the user's own cache."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def start_stream() -> Iterator[Start]:
    """Starts readers of streams, for grey images of 8x8 pixels, and closes them at the end."""
    readers = []

    def start(urls: Sequence[str | Path], layout: BatchLayout = ONE_RANK, **settings: Any) -> StreamReader:
        settings = {"image_size": 8, "channels": 1, "num_classes": None, "seed": 0, "num_workers": 0} | settings
        readers.append(StreamReader([str(url) for url in urls], layout, **settings))
        return readers[-1]

    yield start
    for each in readers:
        each.close()
