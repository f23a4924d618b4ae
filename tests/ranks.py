"""Ranks for tests, which begin with everything imported: what a rank of two takes seconds for, on a core of its own."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

from distgan.bench import ranks

# The last two come with the first optimizer, and with DeepSpeed's engine.
_IMPORTED = ["distgan.build", "distgan.engine.deepspeed", "tests.training", "torch._dynamo", "deepspeed.runtime.zero.muon.muon_optimizer"]


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """As `distgan.bench.ranks.run_ranks`; where there is no GPU, which no process forked from another one may use."""
    if torch.cuda.is_available():
        return ranks.run_ranks(world_size, function, *arguments)
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    return ranks.run_ranks(world_size, function, *arguments, start_method="forkserver")
