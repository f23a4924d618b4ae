"""Every compiled form of the operators, so that one test holds them all to the same truth.

`cpu`: the CPU operators. `emulator`: the unmodified CUDA kernels and bindings, run on the CPU by csrc/emulator; forwards, and with
blocks and threads in reverse order, which changes nothing unless a barrier is missing. `cuda`: the CUDA operators on a GPU, skipped
where there is none.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distgan.ops import library

CHECKOUT = Path(__file__).parents[3]
CSRC = CHECKOUT / "csrc"
IMPLEMENTATIONS = ["cpu", "emulator", "emulator_reversed", "cuda"]
SANITIZED = "DISTGAN_TEST_SANITIZED"  # set by test_emulator.py for the run under the sanitizers


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def builder() -> ModuleType:
    return load_module("distgan_build", CSRC / "build.py")


def emulator_module() -> Path:
    """The emulator, compiled with the operators and the faulty kernels of test_emulator.py; for the sanitizers if they are there."""
    sanitize = SANITIZED in os.environ
    folder = CHECKOUT / "build" / ("emulator-sanitized" if sanitize else "emulator")
    kernels = sorted((Path(__file__).parent / "kernels").glob("*.cu"))
    return builder().build_emulator(folder, folder / "objects", sanitize=sanitize, kernels=kernels)


@functools.cache
def emulator() -> ModuleType:
    """The emulator's driver; importing it registers `torch.ops.distgan_emulated` and `torch.ops.distgan_faults`."""
    return load_module("distgan_emulator", emulator_module())


class _OnGpu:
    """`torch.ops.distgan` for tensors in host memory: they are copied to the GPU, and what the operator wrote is copied back."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._call, getattr(torch.ops.distgan, name))

    def _call(self, operator: Callable[..., Any], *arguments: Any) -> Any:
        pairs: list[tuple[Tensor, Tensor]] = []

        def to_gpu(tensor: Tensor) -> Tensor:
            # The whole storage, so that strides and alignment stay what they are.
            storage = tensor.untyped_storage().cuda()
            pairs.append((tensor, torch.empty(0, dtype=tensor.dtype, device="cuda")))
            return pairs[-1][1].set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

        results = operator(*pytree.tree_map_only(Tensor, to_gpu, list(arguments)))
        for here, there in pairs:
            here.untyped_storage().copy_(there.untyped_storage())
        return pytree.tree_map_only(Tensor, Tensor.cpu, results)


@contextmanager
def operators(implementation: str) -> Iterator[Any]:
    """The namespace of the implementation's operators: `operators('emulator').ema_update(...)`."""
    if implementation == "cpu":
        yield torch.ops.distgan
    elif implementation == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        if reason := library.why_not("cuda"):
            pytest.skip(reason)
        yield _OnGpu()
    else:
        driver = emulator()
        driver.run_reversed(implementation == "emulator_reversed")
        try:
            yield torch.ops.distgan_emulated
        finally:
            driver.run_reversed(False)


@pytest.fixture(params=IMPLEMENTATIONS)
def ops(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The operators in each implementation in turn, to be called as those of `torch.ops.distgan`."""
    with operators(request.param) as namespace:
        yield namespace
