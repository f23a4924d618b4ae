"""Fixtures for all tests."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

# What only one test at a time may have: the ports that are the defaults, or looked for; names of networks and the memory for pods.
_IN_TURNS = {
    "ports": ("integration/test_readme", "integration/test_train", "integration/test_dashboard", "integration/test_monitoring"),
    "networks": ("kubernetes/test_pods", "kubernetes/test_elastic_pods", "slurm/test_jobs"),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run side by side, those of a file stay together: many share what is costly to make."""
    from xdist.scheduler import LoadScopeScheduling

    groups = {f"tests/{file}.py": group for group, files in _IN_TURNS.items() for file in files}

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return groups.get(file, file)

    return ByFile(config, log)


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
