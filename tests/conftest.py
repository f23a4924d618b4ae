"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
import torch


# What has ports, names of networks and processes that are the machine's: one after the other, wherever tests run side by side.
_OF_THE_MACHINE = ("tests/integration/", "tests/slurm/", "tests/kubernetes/test_pods.py", "tests/kubernetes/test_elastic_pods.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side (--dist loadgroup), a file's tests stay together, as many share what is costly to make."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("machine" if file.startswith(_OF_THE_MACHINE) else file))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The digits are packed afresh for a session, never read from the user's own cache; child processes inherit this."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    # As torchrun sets it for its workers: the ranks of a test share the machine's cores, and so do a test and its subprocesses.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start as one rank, even if the suite itself runs below a launcher."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository() -> Path:
    """The top of the checkout."""
    return Path(__file__).parents[1]
