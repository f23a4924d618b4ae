"""The compiled operators: loads them, and says what runs on what.

`csrc/build.py` puts the libraries beside this file. Where one is missing, the reference twins serve: plain PyTorch, the same
results, slower. They also serve float64, which the compiled operators do not take.
"""

import ctypes
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

# Every schema of csrc/registration.cpp.
OPERATORS = (
    "spectral_norm_power_iteration_",
    "spectral_norm_scale",
    "spectral_norm_scale_backward",
    "gradient_penalty",
    "gradient_penalty_backward",
    "gradient_penalty_backward_backward",
    "gradient_penalty_interpolate",
    "ema_update",
)

_FOLDER = Path(__file__).parent
_REMEDY = {
    "cpu": "install a C++ compiler such as g++ and install distgan again",
    "cuda": "install CUDA's nvcc and install distgan again",
}


def _load(device_type: str) -> str | None:
    """Load the operators for a kind of device; returns why that cannot be (None: they are there)."""
    if device_type == "cuda" and torch.version.cuda is None:
        return "this build of torch has no CUDA"
    path = _FOLDER / f"libdistgan_{device_type}.so"
    if not path.exists():
        return f"not compiled; {_REMEDY[device_type]}"
    try:
        if device_type == "cuda":
            # Built beside a torch without CUDA, the library does not name torch's CUDA library; its symbols have to be there.
            ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"), mode=ctypes.RTLD_GLOBAL)
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load ({error}); install distgan again, it was not compiled for torch {torch.__version__}"
    absent = [name for name in OPERATORS if not _is_registered(name, device_type)]
    if absent:
        return f"{path.name} is of another version, without {', '.join(absent)}; install distgan again"
    return None


def _is_registered(name: str, device_type: str) -> bool:
    qualified = f"distgan::{name}"
    return torch._C._dispatch_has_kernel(qualified) and torch._C._dispatch_has_kernel_for_dispatch_key(qualified, device_type.upper())


# Why a kind of device has no compiled operators; the CPU's library also holds every schema, so it comes first.
_MISSING: dict[str, str | None] = {"cpu": _load("cpu")}
_MISSING["cuda"] = _load("cuda") if _MISSING["cpu"] is None else f"without the CPU's there are none ({_MISSING['cpu']})"

_reference_only = False
_told: set[str] = set()  # kinds of devices


class PlainPyTorchWarning(UserWarning):
    """An operator runs as its reference twin because it was not compiled; once for each kind of device."""


def is_compiled(device_type: str) -> bool:
    """Whether compiled operators serve tensors on devices of this type, 'cpu' or 'cuda'."""
    return not _reference_only and device_type in _MISSING and _MISSING[device_type] is None


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled operators take what these stand for: one tensor of each list, as asking all takes as long as an operator.

    What they refuse, such as a list of several dtypes, they refuse in a sentence. Where they should be and are not, it is said.
    """
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return False
        if not is_compiled(tensor.device.type):
            _tell(tensor.device.type)
            return False
    return True


def _tell(device_type: str) -> None:
    if _reference_only or torch.compiler.is_compiling() or device_type in _told or device_type == "meta":  # where nothing is computed
        return
    _told.add(device_type)
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("distgan."):
        level, frame = level + 1, frame.f_back  # to the line that called the package
    warnings.warn(describe(device_type).removeprefix("warning: "), PlainPyTorchWarning, stacklevel=level)


def why_not(device_type: str) -> str | None:
    """Why devices of this type have no compiled operators; None: they have."""
    return _MISSING.get(device_type, f"there are none for {device_type}")


def describe(device_type: str) -> str:
    """What serves on devices of this type, in a sentence."""
    reason = why_not(device_type)
    if reason is None:
        return f"Operators on {device_type}: compiled."
    return f"warning: operators on {device_type}: plain PyTorch, which is slower ({reason})."


@contextmanager
def reference_twins() -> Iterator[None]:
    """Within this, the reference twins serve in place of the compiled operators: for tests and measurements."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before
