"""What this process holds of the memories."""

import psutil
import torch


def memory_bytes(device: torch.device) -> dict[str, int]:
    """`resident`: in host memory. On a GPU also what torch has there: `device_allocated` for tensors, `device_reserved` with what
    it keeps for later ones, `device_peak` the most that was allocated at once so far."""
    held = {"resident": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        held |= {
            "device_allocated": torch.cuda.memory_allocated(device),
            "device_reserved": torch.cuda.memory_reserved(device),
            "device_peak": torch.cuda.max_memory_allocated(device),
        }
    return held
