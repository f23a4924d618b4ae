"""In which precision the networks run. Parameters, gradients, optimizers, losses and penalties are fp32 always."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Mixed precision (Micikevicius et al. 2018, arXiv 1710.03740) by torch's autocast; `torch.float32` changes nothing."""

    dtype: torch.dtype
    device_type: str

    def autocast(self) -> AbstractContextManager[object]:
        """Within this, matrix products and convolutions run in `dtype`."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device_type, self.dtype)

    @property
    def needs_loss_scale(self) -> bool:
        """Whether small gradients vanish in `dtype`, so that losses have to be scaled up: fp16 has five bits of exponent."""
        return self.dtype == torch.float16


def at_least_fp32(tensor: Tensor) -> Tensor:
    """The tensor itself if it is fp32 or float64, else in fp32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
