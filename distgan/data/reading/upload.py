"""Real images on their way to the device, one slice ahead of training, on a stream of their own."""

from typing import NamedTuple

import numpy as np
import torch

from distgan.data.reading.reader import RealImages, RealSlice


class OnDevice(NamedTuple):
    """A `RealSlice` on the device."""

    images: torch.Tensor  # [n, C, H, W] uint8, channels last in memory
    labels: torch.Tensor  # [n] int64
    numbers: np.ndarray  # [n] int64


class Upload:
    """Hands out the reader's slices on `device`.

    On a GPU the copy of the next slice is under way while training works at this one: the reader hands out page-locked memory, and
    a stream of its own keeps the copy from queueing behind training's kernels. On a CPU there is nothing to copy.
    """

    def __init__(self, reader: RealImages, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: tuple[OnDevice, torch.cuda.Event] | None = None

    def __next__(self) -> OnDevice:
        if self._stream is None:
            real = next(self._reader)
            return OnDevice(real.images, real.labels, real.numbers)
        ready, copied = self._ahead or self._copy(next(self._reader), self._stream)
        self._ahead = self._copy(next(self._reader), self._stream)
        training = torch.cuda.current_stream(self._device)
        training.wait_event(copied)
        for tensor in (ready.images, ready.labels):
            tensor.record_stream(training)  # or its memory could be given to the next copy while training still reads it
        return ready

    def _copy(self, real: RealSlice, stream: torch.cuda.Stream) -> tuple[OnDevice, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            images = real.images.to(self._device, non_blocking=True)
            labels = real.labels.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(stream)
        return OnDevice(images, labels, real.numbers), copied
