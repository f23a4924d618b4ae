"""What tests of single shards have in common."""

from pathlib import Path

import pytest


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Where a test writes its shard; its index goes to the same directory."""
    return tmp_path / "shard.tar"
