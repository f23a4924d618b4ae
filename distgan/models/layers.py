"""Layers that more than one model uses."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from distgan.models.base import Discriminator
from distgan.ops.spectrally_normalised import SpectrallyNormalised
from distgan.precision import at_least_fp32


class BatchNorm2d(nn.Module):
    """Batch normalisation over the joined batch of all ranks (Ioffe & Szegedy 2015, arXiv 1502.03167).

    Input and output: [N, C, H, W]. In training the statistics are those of all ranks' samples together, through a
    differentiable all-reduce, so that R ranks compute what one rank computes on the joined batch; torch's SyncBatchNorm
    has no CPU path. All ranks must hold equally many samples. The running statistics are therefore identical on all
    ranks without being broadcast. With accumulation the batch is one micro-batch.

    With `num_classes`, each class has a scale and a shift of its own, and the labels [N] int64 choose (conditional batch norm:
    de Vries et al. 2017, arXiv 1707.00683).
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, num_classes: int | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        affine = (channels,) if num_classes is None else (num_classes, channels)
        self.weight = nn.Parameter(torch.ones(affine))
        self.bias = nn.Parameter(torch.zeros(affine))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        dtype, x = x.dtype, at_least_fp32(x)  # rounded once, at the end
        if self.training:
            mean, var, count = self._statistics(x)
            with torch.no_grad():
                unbiased = var * (count / max(count - 1, 1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        weight, bias = self.weight, self.bias  # [C], or [classes, C]
        if weight.dim() == 2:
            assert labels is not None
            weight, bias = F.embedding(labels, weight), F.embedding(labels, bias)  # [N, C]
        scale = weight * torch.rsqrt(var + self.eps)
        shift = bias - mean * scale
        return (x * scale[..., None, None] + shift[..., None, None]).to(dtype)

    @staticmethod
    def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Mean and biased variance over all ranks, [C] each as x in fp32 or float64, and the number of values behind them."""
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        count = x.numel() // x.shape[1]
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return mean, var, count
        # Raw second moments cancel badly in fp32; they are exchanged in float64, two numbers a channel.
        moments = torch.stack([mean.double(), var.double() + mean.double().square()])  # [2, C]
        moments = _SumOverRanks.apply(moments) / dist.get_world_size()
        mean, second_moment = moments.unbind()
        var = (second_moment - mean.square()).clamp_min(0)
        return mean.to(x.dtype), var.to(x.dtype), count * dist.get_world_size()


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. Each rank's output depends on every rank's input, so the gradient is summed too."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> torch.Tensor:
        return _SumOverRanks.apply(*gradients)


class LabelProjection(nn.Module):
    """Features to logit: linear, plus <embedding(label), features> if conditional (Miyato & Koyama 2018, arXiv 1802.05637, eq. 4).

    Features [N, F], labels [N] int64 or None -> logits [N].
    """

    def __init__(self, features: int, num_classes: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, features)
        if self.embedding is not None:
            # At torch's N(0, 1) the projection would drown the linear term and the first penalties would explode.
            nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        logits = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(dim=1)
        return logits


class SpectrallyNormalisedDiscriminator(SpectrallyNormalised, Discriminator):
    """A `base.Discriminator` around one, all its weights spectrally normalised."""

    runs_layer_by_layer = False


def embed_labels(embedding: nn.Embedding | None, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Append the labels' embedding to the latents: [N, Z] -> [N, Z + E]; unconditional (None): the latents as they are."""
    return latents if embedding is None else torch.cat([latents, embedding(labels)], dim=1)
