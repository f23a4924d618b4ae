"""The engine on DeepSpeed: ZeRO stage 0 (nothing is sharded), 1 (the optimizer's state) or 2 (the gradients, too).

Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models", arXiv 1910.02054. DeepSpeed comes by
`import_deepspeed` and no other way; it gets torch's own optimizer and no precision of its own, as parameters are fp32 under every engine.
"""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from distgan.batch import Batch
from distgan.engine.adam import AdamOptions, load_slots, prepare_step, slots
from distgan.engine.base import EngineState, StepResult
from distgan.phases import Phase, Statistics

MOMENTS = ("exp_avg", "exp_avg_sq")  # slots of Adam that are sharded like the parameters; `step` is one number


class DeepSpeedEngine:
    """See `base.Engine`. It needs a process group on one rank, too.

    Args:
        settings: DeepSpeed's own, complete: `deepspeed_settings.complete`.
    """

    def __init__(self, phase: Phase, accumulation_steps: int, adam: AdamOptions, settings: dict[str, Any]) -> None:
        self._network = phase.network
        self._accumulation_steps = accumulation_steps
        self._max_gradient_norm = adam.max_gradient_norm
        self._adam = adam.build(phase.network)
        self._is_sharded = settings["zero_optimization"]["stage"] > 0
        self._engine, *_ = import_deepspeed().initialize(model=phase, optimizer=self._adam, config=settings, dist_init_required=False)

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, part: str, batch: Batch, *, last: bool) -> Statistics:
        self._engine.set_gradient_accumulation_boundary(last)
        value, statistics = self._engine(part, batch)
        value = _Touching.apply(value / self._accumulation_steps, *self._network.parameters())
        self._engine.backward(value, scale_wrt_gas=False)
        return statistics

    def step(self) -> StepResult:
        if not self._is_sharded:
            result = prepare_step(self._network, self._adam, self._max_gradient_norm)
            self._engine.step()
            return result
        return sharded_step(self._engine)

    def state(self) -> EngineState:
        network = {name: value.detach() for name, value in self._network.state_dict().items()}
        if not self._is_sharded:
            return EngineState(network, slots(self._network, self._adam))
        return EngineState(network, gathered_slots(self._network, self._adam))

    def load_state(self, state: EngineState) -> None:
        self._network.load_state_dict(state.network)
        if not self._is_sharded:
            load_slots(self._network, self._adam, state.optimizer)
            return
        self._engine.optimizer.refresh_fp32_params()
        if not state.optimizer:
            return
        begin_slots(self._adam, [shard for group in self._adam.param_groups for shard in group["params"]], state)
        self._engine.optimizer._hp_optimizer_states_linked = False
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        utilities = import_deepspeed().utils
        for name, parameter in self._network.named_parameters():
            for slot in MOMENTS:
                value = state.optimizer[f"{name}/{slot}"].to(parameter.device)
                utilities.safe_set_full_optimizer_state(parameter, value, slot)


def sharded_step(engine: Any) -> StepResult:
    """A step where no rank holds the whole gradient: ZeRO takes its norm, limits it, and skips it if it is not finite."""
    engine.step()
    norm, skipped = engine.get_global_grad_norm(), float(engine.optimizer.overflow)
    return StepResult(*(torch.as_tensor(value, dtype=torch.float32, device=engine.device) for value in (norm, skipped)))


def gathered_slots(network: nn.Module, adam: torch.optim.Adam) -> dict[str, Tensor]:
    """The sharded optimizer's state as `base.EngineState` names it. Collective."""
    if not adam.state:
        return {}
    (step,) = {float(state["step"]) for state in adam.state.values()}
    gathered: dict[str, Tensor] = {}
    utilities = import_deepspeed().utils
    for name, parameter in network.named_parameters():
        gathered[f"{name}/step"] = torch.tensor(step)
        gathered |= {f"{name}/{slot}": utilities.safe_get_full_optimizer_state(parameter, slot) for slot in MOMENTS}
    return gathered


def begin_slots(adam: torch.optim.Adam, shards: list[Tensor], state: EngineState) -> None:
    """Give the optimizer a state for the flat tensors that this rank updates, as after `state`'s number of steps, its moments zero."""
    step = next(value for key, value in state.optimizer.items() if key.endswith("/step"))  # one for all parameters
    for shard in shards:
        moments = {slot: torch.zeros_like(shard) for slot in MOMENTS}
        adam.state[shard] = {"step": step.to(shard.device, torch.float32, copy=True), **moments}


class _Touching(Function):
    """(value, *parameters) -> value, with a gradient of zero for each parameter.

    ZeRO counts on a gradient for every parameter in every backward, and a penalty has none in a bias. The zeros take no memory.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.zeros = [parameter.new_zeros(()).expand(parameter.shape) for parameter in parameters]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return *gradients, *ctx.zeros


def import_deepspeed() -> Any:
    """The package, quiet and compiling nothing, when it is needed: it takes seconds."""
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists, also on one process that no launcher started
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it warns that it finds nothing else
    import deepspeed

    # torch 2.13 tells it of newer names, once in every rank.
    warnings.filterwarnings("ignore", ".*(all_gather_into_tensor|reduce_scatter_tensor).* is deprecated", FutureWarning)
    # On CPUs it would compile a collective of its own now, under a lock that a killed process leaves behind.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
