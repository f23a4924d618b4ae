"""How the operators that treat images one by one lay out their results: csrc/common/samples.h says the same in C++."""

import torch
from torch import Tensor


def has_dense_samples(tensor: Tensor) -> bool:
    """Whether the elements of each sample [dimension 0] lie together, one sample after the other: contiguous, channels-last."""
    if tensor.numel() == 0:
        return False
    dimensions = [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]
    if tensor.shape[0] != 1:
        dimensions = [*sorted(dimensions[1:]), dimensions[0]]
    else:
        dimensions.sort()
    expected = 1
    for stride, size in dimensions:
        if stride != expected:
            return False
        expected *= size
    return True


def empty_in_layout_of(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised, in the memory layout of `tensor` if its samples are dense, otherwise contiguous."""
    if has_dense_samples(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=tensor.device)
    return torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
