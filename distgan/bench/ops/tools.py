"""What several rows build their contestants with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distgan.bench.measure import Contestant, Unavailable


def compiled(function: Callable[..., Any], options: dict[str, Any] | None = None) -> Callable[..., Any]:
    """torch.compile of the whole of `function` for fixed shapes; compiles at the first call and raises what stands in its way."""
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def cuda_graph(run: Callable[[], Sequence[Tensor]], state: Sequence[Tensor], device: torch.device) -> Callable[[], Sequence[Tensor]]:
    """A replay of `run`. `state` is what it changes in place: it is put back after the warm-up, so the first replay is the first run.

    Raises:
        Unavailable: there is no GPU, or `run` cannot be captured.
    """
    if device.type != "cuda":
        raise Unavailable("needs a GPU")
    before = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = run()
    except RuntimeError as error:
        raise Unavailable(f"the capture failed: {str(error).partition(chr(10))[0]}") from None
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return outputs

    return replay


@torch.no_grad()
def foreach_copy(tensors: Sequence[Tensor]) -> Contestant:
    """The floor: every byte of `tensors` read once and written once."""
    sources = [tensor.detach() for tensor in tensors]
    targets = [torch.empty_like(tensor) for tensor in sources]

    def run() -> None:
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]

    return Contestant(run, 2 * sum(tensor.nbytes for tensor in sources))
