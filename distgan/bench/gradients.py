"""When the gradients of a step are there."""

from collections.abc import Iterator
from contextlib import contextmanager

from distgan.batch import Batch
from distgan.engine.base import Engine
from distgan.metrics.moment import Moment
from distgan.phases import Phase, Statistics


@contextmanager
def gradient_moments(phase: Phase, engine: Engine) -> Iterator[list[Moment]]:
    """Within this: a moment for each parameter whose gradient is there, of the engine's latest backward."""
    moments: list[Moment] = []
    backward = engine.backward

    def looking(part: str, batch: Batch, *, last: bool) -> Statistics:
        moments.clear()
        return backward(part, batch, last=last)

    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda parameter: moments.append(Moment(parameter.device)))
        for parameter in phase.network.parameters()
    ]
    engine.backward = looking
    try:
        yield moments
    finally:
        engine.backward = backward
        for hook in hooks:
            hook.remove()
