"""A moment on the clock of the host or of a GPU's stream, which nobody waits for until its time is asked."""

import time

import torch

_Zero = tuple[float, torch.cuda.Event]  # one moment, on the host's clock and on the device's

_zeros: dict[torch.device, _Zero] = {}


class Moment:
    """Now: of the host for what a CPU does, in the current stream for what a GPU does."""

    __slots__ = ("_event", "_host", "_zero")

    def __init__(self, device: torch.device) -> None:
        self._host = time.perf_counter()
        self._event = None
        if device.type == "cuda":
            self._zero = _zeros.get(device) or _new_zero(device)
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds(self) -> float:
        """Its time in seconds of `time.perf_counter`; waits until a GPU gets there."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        host, event = self._zero
        return host + event.elapsed_time(self._event) / 1000


def renew_zero(device: torch.device) -> None:
    """Let the moments of a GPU be counted from now on, for which it is waited for.

    Do this from time to time: CUDA tells the time between two events in milliseconds of fp32, after an hour to a quarter of one.
    """
    if device.type == "cuda":
        _new_zero(device)


def _new_zero(device: torch.device) -> _Zero:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    event.synchronize()
    _zeros[device] = time.perf_counter(), event
    return _zeros[device]
