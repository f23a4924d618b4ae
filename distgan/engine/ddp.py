"""The engine on torch's DistributedDataParallel; on one rank the phase runs as it is."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distgan.batch import Batch
from distgan.distributed import World
from distgan.engine.adam import AdamOptions, load_slots, prepare_step, slots
from distgan.engine.base import EngineState, StepResult
from distgan.engine.buckets import bucket_numel
from distgan.phases import Phase, Statistics

# torch 2.13 renamed the argument and warns of the old name; 2.11 has only that.
_SYNC_BUFFERS = next(
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in inspect.signature(DistributedDataParallel).parameters
)


class DdpEngine:
    """See `base.Engine`.

    Buffers are not broadcast: batch statistics agree by construction (models/layers.py).
    """

    def __init__(self, phase: Phase, world: World, accumulation_steps: int, adam: AdamOptions) -> None:
        self._network = phase.network
        self._accumulation_steps = accumulation_steps
        options: dict[str, Any] = {
            _SYNC_BUFFERS: False,
            "gradient_as_bucket_view": True,  # or it holds each gradient twice
            "bucket_cap_mb": 4 * bucket_numel(phase.network) / 2**20,
        }
        self._ddp = DistributedDataParallel(phase, **options) if world.size > 1 else None
        if self._ddp is not None:
            self._ddp.register_comm_hook(None, allreduce_hook)  # what it does anyway, but from where it can be counted
        self._run = self._ddp or phase
        self._max_gradient_norm = adam.max_gradient_norm
        self._optimizer = adam.build(phase.network)
        self._scaler = GradScaler(phase.precision.device_type) if phase.precision.needs_loss_scale else None

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, part: str, batch: Batch, *, last: bool) -> Statistics:
        alone = nullcontext() if last or self._ddp is None else self._ddp.no_sync()
        with alone:
            value, statistics = self._run(part, batch)
            value = value / self._accumulation_steps
            (value if self._scaler is None else self._scaler.scale(value)).backward()
        return statistics

    def step(self) -> StepResult:
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        result = prepare_step(self._network, self._optimizer, self._max_gradient_norm)
        self._optimizer.step()
        if self._scaler is not None:
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return result

    def state(self) -> EngineState:
        network = {name: value.detach() for name, value in self._network.state_dict().items()}
        return EngineState(network, slots(self._network, self._optimizer), self._loss_scale())

    def load_state(self, state: EngineState) -> None:
        self._network.load_state_dict(state.network)
        load_slots(self._network, self._optimizer, state.optimizer)
        if self._scaler is not None and state.loss_scale:
            saved = {name: value.item() for name, value in state.loss_scale.items()}
            self._scaler.load_state_dict(self._scaler.state_dict() | saved)

    def _loss_scale(self) -> dict[str, Tensor]:
        state = {} if self._scaler is None else self._scaler.state_dict()
        return {name: torch.tensor(value) for name, value in state.items() if name in ("scale", "_growth_tracker")}
