"""The operators of `distgan.ops` and the penalty phase, beside what plain PyTorch offers."""

from collections.abc import Iterator

import torch

from distgan.bench.measure import Row
from distgan.bench.ops import ema_update, gradient_penalty, penalty_phase, spectral_norm


def rows(device: torch.device) -> Iterator[Row]:
    """Every row of `python -m distgan.bench ops`."""
    yield from spectral_norm.rows(device)
    yield from gradient_penalty.rows(device)
    yield from penalty_phase.rows(device)
    yield from ema_update.rows(device)
