"""What an engine is: it owns a phase's gradients, its optimizer, and every exchange between ranks about them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from distgan.batch import Batch
from distgan.phases import Statistics


class StepResult(NamedTuple):
    """Both are scalars on the device, the same on every rank; reading one waits for the device."""

    gradient_norm: Tensor  # Euclidean norm of the averaged gradient over all parameters, fp32, before it is limited
    skipped: Tensor  # 1.0 if that norm was not finite and nothing was updated, else 0.0


@dataclass(frozen=True)
class EngineState:
    """Full fp32 tensors under the network's own names, whatever the engine and the number of ranks."""

    network: dict[str, Tensor]  # parameters and buffers
    optimizer: dict[str, Tensor]  # '<parameter>/<slot>', such as 'head.linear.weight/exp_avg'; empty before the first step
    loss_scale: dict[str, Tensor] = field(default_factory=dict)  # of fp16 only: of torch's GradScaler


class Engine(Protocol):
    """One per phase."""

    def whole(self) -> AbstractContextManager[None]:
        """Within this, the network's parameters are in place for whoever else runs it: the other phase, pictures, averages.

        Outside they may be empty. Collective, and not around this engine's own calls.
        """
        ...

    def backward(self, part: str, batch: Batch, *, last: bool) -> Statistics:
        """Run a part of the phase forward and backward on one micro-batch; gradients add up until `step`.

        `last` marks the final call before `step`: only there, on a part that touches every parameter, may ranks meet.
        The gradient that `step` uses is the mean over ranks and micro-batches of each part's gradient.
        """
        ...

    def step(self) -> StepResult:
        """Update the network from the gradients and clear them."""
        ...

    def state(self) -> EngineState:
        """Everything of the network and its optimizer. Collective: every rank calls it, every rank gets all."""
        ...

    def load_state(self, state: EngineState) -> None:
        """Put back what `state` gave, under any engine and on any number of ranks. Collective."""
        ...
