"""The engine on torch's DistributedDataParallel; on one rank the phase runs as it is."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from distgan.batch import Batch
from distgan.distributed import World
from distgan.engine.base import EngineState, StepResult
from distgan.phases import Phase, Statistics

# torch 2.13 renamed the argument and warns of the old name; 2.11 has only that.
_SYNC_BUFFERS = next(
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in inspect.signature(DistributedDataParallel).parameters
)


class DdpEngine:
    """See `base.Engine`. Adam (Kingma & Ba 2015, arXiv 1412.6980) in its fused form.

    Buffers are not broadcast: batch statistics agree by construction (models/layers.py).
    """

    def __init__(
        self, phase: Phase, world: World, accumulation_steps: int, *, learning_rate: float, betas: tuple[float, float], eps: float
    ) -> None:
        self._network = phase.network
        self._accumulation_steps = accumulation_steps
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        self._ddp = DistributedDataParallel(phase, **options) if world.size > 1 else None
        self._run = self._ddp or phase
        self._optimizer = torch.optim.Adam(phase.network.parameters(), learning_rate, betas, eps, fused=True)

    def backward(self, part: str, batch: Batch, *, last: bool) -> Statistics:
        alone = nullcontext() if last or self._ddp is None else self._ddp.no_sync()
        with alone:
            value, statistics = self._run(part, batch)
            (value / self._accumulation_steps).backward()
        return statistics

    def step(self) -> StepResult:
        gradients = [parameter.grad for parameter in self._network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = (~norm.isfinite()).to(torch.float32)
        # Fused Adam skips by itself where this is 1 (GradScaler's own way): nobody waits for the device to decide.
        self._optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepResult(norm, skipped)

    def state(self) -> EngineState:
        slots = {
            f"{name}/{slot}": value.detach()
            for name, parameter in self._network.named_parameters()
            for slot, value in self._optimizer.state.get(parameter, {}).items()
        }
        return EngineState({name: value.detach() for name, value in self._network.state_dict().items()}, slots)

    def load_state(self, state: EngineState) -> None:
        self._network.load_state_dict(state.network)
        parameters = dict(self._network.named_parameters())
        for key, value in state.optimizer.items():
            name, _, slot = key.rpartition("/")
            parameter = parameters[name]
            self._optimizer.state[parameter][slot] = value.to(parameter.device, copy=True)
