"""How many floating-point operations a call computes: counted when it first runs, known from then on.

Counted are matrix products, convolutions and the products with vectors of a spectral norm, forward, backward and in derivatives of
any order; a multiply and an add are two. What is computed entry by entry (activations, norms, averages, the optimizer) is not.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Size
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from distgan.ops import library


class FlopCount:
    """`total` operations in all calls since the start."""

    def __init__(self) -> None:
        self.total = 0
        self._of_kind: dict[Hashable, int] = {}

    @contextmanager
    def call(self, *kind: Hashable) -> Iterator[None]:
        """Within this runs a call of this kind: calls of one kind compute as much as each other, whatever their numbers."""
        if kind in self._of_kind:
            yield
        else:
            with _Counting() as counting:
                yield
            self._of_kind[kind] = counting.flops
        self.total += self._of_kind[kind]


class _Counting(TorchDispatchMode):
    """Counts every operator that runs within it, and runs it as it is.

    As torch's FlopCounterMode, whose formulas these are. That one also follows the modules, by hooks on their inputs, which fail
    ("currently running autograd.grad()") where a gradient is asked of one: in every exact penalty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._formulas = FlopCounterMode(display=False, custom_mapping=_own_formulas()).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = self._formulas.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _own_formulas() -> dict[Any, Callable[..., int]]:
    """{operator: what it computes, given its arguments with shapes in the place of tensors} for what torch has no formula of."""
    formulas: dict[Any, Callable[..., int]] = {  # of the reference twins
        torch.ops.aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
        torch.ops.aten.dot: lambda vector, *_, **__: 2 * prod(vector),
    }
    if library.is_compiled("cpu"):
        formulas |= {
            torch.ops.distgan.spectral_norm_power_iteration_: _power_iteration,
            torch.ops.distgan.spectral_norm_scale_backward: _scale_backward,
        }
    return formulas


def _power_iteration(weights: list[Size], u: Size, v: Size, iterations: int, *_: Any, **__: Any) -> int:
    """Of each W [R, C]: W v and W^T (W v) in every iteration; in none, u^T W v."""
    entries = sum(prod(weight) for weight in weights)
    return 4 * entries * iterations if iterations else 2 * entries + 2 * prod(u)


def _scale_backward(gradients: list[Size], weights: list[Size], *_: Any, **__: Any) -> int:
    """<G, W>, and u v^T times that taken away from G."""
    return 4 * sum(prod(weight) for weight in weights)
