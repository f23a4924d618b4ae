"""The engine on ZeRO stage 3: parameters, gradients and the optimizer's state are sharded over the ranks.

DeepSpeed gathers a layer's parameters when that layer runs, by means that have neither a second nor a forward derivative. So DeepSpeed
trains a sharded copy of the network, and the network that everybody else knows holds its parameters only where it is needed `whole`:
for parts that cannot run layer by layer (`Phase.needs_whole`: an exact penalty), for the other network's phase, for pictures. The
gradient that such a part gives is added to that of the last backward through the shards, at the moment when a parameter's gradient has
its full shape and has not been exchanged yet.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.batch import Batch
from distgan.engine.adam import AdamOptions
from distgan.engine.base import EngineState, StepResult
from distgan.engine.deepspeed import MOMENTS, begin_slots, gathered_slots, import_deepspeed, sharded_step
from distgan.phases import Phase, Statistics


class Zero3Engine:
    """See `base.Engine` and `deepspeed.DeepSpeedEngine`."""

    def __init__(self, phase: Phase, accumulation_steps: int, adam: AdamOptions, settings: dict[str, Any]) -> None:
        self._phase = phase
        self._network = phase.network
        self._accumulation_steps = accumulation_steps
        buffers = {id(buffer): buffer for buffer in self._network.buffers()}
        self._shards = copy.deepcopy(self._network, buffers)  # the buffers stay the same ones
        self._adam = adam.build(self._shards)
        self._deepspeed = import_deepspeed()
        module = _Sharded(phase.around(self._shards))
        self._engine, *_ = self._deepspeed.initialize(model=module, optimizer=self._adam, config=settings, dist_init_required=False)
        self._empty()

    @contextmanager
    def whole(self) -> Iterator[None]:
        with self._deepspeed.zero.GatheredParameters(list(self._shards.parameters())):
            for parameter, shard in self._pairs():
                parameter.data = shard.data  # the same memory: DeepSpeed frees it
            try:
                yield
            finally:
                self._empty()

    def backward(self, part: str, batch: Batch, *, last: bool) -> Statistics:
        if self._phase.needs_whole(part):
            with self.whole():
                value, statistics = self._phase(part, batch)
                (value / self._accumulation_steps).backward()
                if last:
                    self._exchange(self._engine(None), last=True)
            return statistics
        value, statistics = self._engine(part, batch)
        self._exchange(value / self._accumulation_steps, last=last)
        return statistics

    def _exchange(self, value: Tensor, *, last: bool) -> None:
        """Go backward through the shards, the last time with the gradients of the parts that needed the network whole."""
        pairs = [(shard, parameter.grad) for parameter, shard in self._pairs() if last and parameter.grad is not None]
        hooks = [shard.register_hook(gradient.add) for shard, gradient in pairs]
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(value, scale_wrt_gas=False)
        for hook in hooks:
            hook.remove()

    def step(self) -> StepResult:
        self._network.zero_grad(set_to_none=True)
        return sharded_step(self._engine)

    def state(self) -> EngineState:
        with self.whole():
            network = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        return EngineState(network, gathered_slots(self._shards, self._adam))

    def load_state(self, state: EngineState) -> None:
        parameters = list(self._shards.parameters())
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
            self._shards.load_state_dict(state.network)
        zero = self._engine.optimizer
        zero.refresh_fp32_params()
        if not state.optimizer:
            return
        begin_slots(self._adam, zero.fp32_partitioned_groups_flat, state)
        for name, shard in self._shards.named_parameters():
            for slot in MOMENTS:
                own = _own_part(state.optimizer[f"{name}/{slot}"], shard)
                self._deepspeed.utils.safe_set_local_optimizer_state(shard, own, slot)

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        return zip(self._network.parameters(), self._shards.parameters(), strict=True)

    def _empty(self) -> None:
        for parameter in self._network.parameters():
            parameter.data = parameter.new_empty(0)


class _Sharded(nn.Module):
    """A phase around shards, or, called without a part, a value in which each parameter has a gradient of zero."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.phase = phase

    def forward(self, part: str | None, *batch: Batch) -> Any:
        if part is not None:
            return self.phase(part, *batch)
        return 0 * torch.stack([parameter.sum() for parameter in self.phase.network.parameters()]).sum()


def _own_part(value: Tensor, shard: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter-shaped tensor: equal pieces of the flattened one, the last of them padded."""
    size = cast(Any, shard).ds_tensor.numel()
    own = value.to(shard.device).flatten()[dist.get_rank() * size :][:size]
    return F.pad(own, (0, size - own.numel()))
