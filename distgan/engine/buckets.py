"""How much of a gradient the ranks exchange at once."""

from torch import nn

_SMALLEST, _LARGEST = 2**18, 25 * 2**18  # 1 MiB, below which an exchange is mostly waiting, and 25 MiB, torch's default


def bucket_numel(network: nn.Module) -> int:
    """An eighth of the network's parameters within limits, so that most of a gradient travels while the rest is being computed.

    (DDP's default holds most discriminators in two buckets; DeepSpeed's of 5e8 numbers takes 2 GB of memory for any network.)
    """
    numel = sum(parameter.numel() for parameter in network.parameters())
    return min(max(numel // 8, _SMALLEST), _LARGEST)
