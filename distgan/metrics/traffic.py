"""What the ranks send each other and for how long, counted where every exchange passes: at the functions of torch.distributed.

DDP's own exchange passes there because its engine has it call them; what it sends once at start does not.
"""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from distgan.metrics.moment import Moment

# Of n ranks in a ring, each sends (n - 1)/n of the bytes of this argument (a tensor or several) so many times; so it does, on average,
# where only one rank gives or gets. (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".)
_RING: dict[str, tuple[str, int]] = {
    "all_reduce": ("tensor", 2),
    "reduce": ("tensor", 1),
    "broadcast": ("tensor", 1),
    "all_gather": ("tensor_list", 1),
    "all_gather_into_tensor": ("output_tensor", 1),
    "reduce_scatter": ("input_list", 1),
    "reduce_scatter_tensor": ("input", 1),
    "all_to_all_single": ("input", 1),
}
OTHER = "other"  # the phase of what is exchanged in none


class Span(NamedTuple):
    """One exchange; times in seconds of `time.perf_counter`, of tensors on a GPU as its stream sees them."""

    phase: str
    operation: str
    sent_bytes: float  # by each rank, were it done on a ring
    begin: float
    end: float


@dataclass
class Total:
    """Of one phase, since the last look."""

    sent_bytes: float = 0.0
    seconds: float = 0.0  # in which at least one exchange was under way


class Traffic:
    """Counts while it is `counting`; one at a time in a process."""

    def __init__(self) -> None:
        self._phase = OTHER
        self._ended: deque[tuple[str, str, float, Moment, Moment]] = deque()  # other threads add to it

    @contextmanager
    def counting(self) -> Iterator["Traffic"]:
        global _current
        _install()
        before, _current = _current, self
        try:
            yield self
        finally:
            _current = before

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Within this, exchanges are the phase's."""
        before, self._phase = self._phase, phase
        try:
            yield
        finally:
            self._phase = before

    def flush(self) -> list[Span]:
        """Every exchange that has ended since the last call, by its begin. Waits for what a GPU has still to do."""
        spans = []
        while self._ended:
            phase, operation, sent_bytes, begin, end = self._ended.popleft()
            spans.append(Span(phase, operation, sent_bytes, begin.seconds(), end.seconds()))
        return sorted(spans, key=lambda span: span.begin)

    def count(self, operation: str, tensor: torch.Tensor, sent_bytes: float, call: Callable[[], Any]) -> Any:
        """`call` the operation; it ends when it returns or, if it returns a handle to wait with, when that is done."""
        phase, begin = self._phase, Moment(tensor.device)
        work = call()

        def ended(*_: Any) -> None:
            self._ended.append((phase, operation, sent_bytes, begin, Moment(tensor.device)))

        if isinstance(work, dist.Work):
            work.get_future().add_done_callback(ended)  # on a GPU it runs on a stream behind the exchange
        else:
            ended()
        return work


def totals(spans: Iterable[Span]) -> dict[str, Total]:
    """By phase; `spans` in the order of their begins."""
    found: dict[str, Total] = {}
    until: dict[str, float] = {}
    for span in spans:
        total = found.setdefault(span.phase, Total())
        total.sent_bytes += span.sent_bytes
        # What overlaps an earlier one counts once.
        total.seconds += max(0.0, span.end - max(span.begin, until.get(span.phase, span.begin)))
        until[span.phase] = max(span.end, until.get(span.phase, span.end))
    return found


_current: Traffic | None = None


@functools.cache
def _install() -> None:
    """Put counting functions in the place of torch's, for good: DeepSpeed keeps references to some."""
    for name, (argument, times) in _RING.items():
        counting = _counting(getattr(distributed_c10d, name), name, argument, times)
        for module in (dist, distributed_c10d):
            setattr(module, name, counting)


def _counting(function: Callable[..., Any], operation: str, argument: str, times: int) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def counted(*arguments: Any, **keywords: Any) -> Any:
        call = functools.partial(function, *arguments, **keywords)
        if _current is None:
            return call()
        bound = signature.bind(*arguments, **keywords).arguments
        ranks = dist.get_world_size(bound.get("group"))
        value = bound[argument]
        tensors = [value] if isinstance(value, torch.Tensor) else list(value)
        sent_bytes = times * (ranks - 1) / ranks * sum(tensor.nbytes for tensor in tensors)
        return _current.count(operation, tensors[0], sent_bytes, call)

    return counted
