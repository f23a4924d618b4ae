"""The optimizer of every engine, Adam (Kingma & Ba 2015, arXiv 1412.6980) in torch's fused form, where each rank holds all of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distgan.engine.base import StepResult


@dataclass(frozen=True)
class AdamOptions:
    """What Adam is set to, and the Euclidean norm to which a longer gradient is scaled down (None: no limit)."""

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    max_gradient_norm: float | None

    def build(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), self.learning_rate, self.betas, self.eps, fused=True)


def prepare_step(network: nn.Module, optimizer: torch.optim.Adam, max_gradient_norm: float | None) -> StepResult:
    """Measure and limit the gradients that the parameters hold, and have `optimizer.step()` skip them if they are not finite."""
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if max_gradient_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_gradient_norm, norm)
    skipped = (~norm.isfinite()).to(torch.float32)
    # Fused Adam skips by itself where this is 1 (GradScaler's own way): nobody waits for the device to decide.
    optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
    return StepResult(norm, skipped)


def slots(network: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """The optimizer's state as `base.EngineState` names it."""
    return {
        f"{name}/{slot}": value.detach()
        for name, parameter in network.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_slots(network: nn.Module, optimizer: torch.optim.Adam, values: dict[str, Tensor]) -> None:
    """Put back what `slots` gave."""
    parameters = dict(network.named_parameters())
    for key, value in values.items():
        name, _, slot = key.rpartition("/")
        state: dict[str, Any] = optimizer.state[parameters[name]]
        state[slot] = value.to(parameters[name].device, copy=True)
