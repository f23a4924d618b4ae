"""The most floating-point operations a second that a device can do, as its maker states it, for matrices without structured zeros."""

from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """In 10^12 operations a second, of matrix products that are summed in fp32."""

    fp32: float
    tf32: float
    half: float  # bf16 and fp16


# NVIDIA's data sheets of each product (of GeForce: appendix A of the architecture's white paper); where they state the rate "with
# sparsity" only, half of it.
_A100 = Peak(19.5, 156, 312)
_H100_SXM = Peak(67, 494.5, 989.5)
_H100_NVL = Peak(60, 417.5, 835.5)
PEAKS: dict[str, Peak] = {  # by the name that the driver gives; the parts of a GPU that is divided (MIG) have other ones
    "NVIDIA A10": Peak(31.2, 62.5, 125),
    "NVIDIA A30": Peak(10.3, 82, 165),
    "NVIDIA A40": Peak(37.4, 74.8, 149.7),
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA H100 PCIe": Peak(51, 378, 756.5),
    "NVIDIA H100 NVL": _H100_NVL,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H200 NVL": _H100_NVL,
    "NVIDIA B200": Peak(75, 1100, 2250),
    "NVIDIA GB200": Peak(80, 1250, 2500),
    "NVIDIA L4": Peak(30.3, 60, 121),
    "NVIDIA L40": Peak(90.5, 90.5, 181.05),
    "NVIDIA L40S": Peak(91.6, 183, 362.05),
    "NVIDIA GeForce RTX 3090": Peak(35.6, 35.6, 71),
    "NVIDIA GeForce RTX 4090": Peak(82.6, 82.6, 165.2),
    "NVIDIA GeForce RTX 5090": Peak(104.8, 104.8, 209.5),
}


def peak_flops_per_second(device: torch.device, dtype: torch.dtype) -> float | None:
    """Of matrix products and convolutions in `dtype` (float32, bfloat16 or float16); None: not known, as of every CPU.

    For float32 it is TF32's if torch may take that for either of the two: by default it may for convolutions.
    """
    if device.type != "cuda":
        return None
    peak = PEAKS.get(torch.cuda.get_device_name(device))
    if peak is None:
        return None
    if dtype != torch.float32:
        return 1e12 * peak.half
    may_take_tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return 1e12 * (peak.tf32 if may_take_tf32 else peak.fp32)
