"""Spectral normalisation as fast as plain PyTorch lets one write it: products layer by layer, everything else by `torch._foreach_`."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-12  # as torch's own parametrisation


def foreach_spectral_norm(weights: Sequence[Tensor], us: list[Tensor], vs: list[Tensor]) -> tuple[Tensor, ...]:
    """One power iteration, which moves `us` and `vs`, and every weight divided by its norm."""
    return _Scale.apply(_iterate(weights, us, vs), us, vs, *weights)


@torch.no_grad()
def _iterate(weights: Sequence[Tensor], us: list[Tensor], vs: list[Tensor]) -> list[Tensor]:
    """The spectral norms: u^T W v is |W^T u|, since v is W^T u over its length."""
    matrices = [weight.flatten(1) for weight in weights]
    for matrix, u, v in zip(matrices, us, vs, strict=True):
        torch.mv(matrix, v, out=u)
    _normalise_(us)
    for matrix, u, v in zip(matrices, us, vs, strict=True):
        torch.mv(matrix.T, u, out=v)
    return _normalise_(vs)


def _normalise_(vectors: list[Tensor]) -> list[Tensor]:
    norms = list(torch._foreach_norm(vectors))  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_clamp_min_(norms, EPS)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_div_(vectors, norms)  # pyright: ignore[reportPrivateImportUsage]
    return norms


class _Scale(torch.autograd.Function):
    """W / sigma; backward (G - <G, W / sigma> u v^T) / sigma."""

    @staticmethod
    def forward(ctx, norms: list[Tensor], us: list[Tensor], vs: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        scaled = torch._foreach_div(weights, norms)  # pyright: ignore[reportPrivateImportUsage]
        ctx.vectors = norms, us, vs
        ctx.save_for_backward(*scaled)
        return tuple(scaled)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        norms, us, vs = ctx.vectors
        products = [torch.dot(g.flatten(), w.flatten()) for g, w in zip(gradients, ctx.saved_tensors, strict=True)]
        pulls = torch._foreach_mul(us, products)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_neg_(pulls)  # pyright: ignore[reportPrivateImportUsage]
        results = [torch.addr(g.flatten(1), pull, v).view_as(g) for g, pull, v in zip(gradients, pulls, vs, strict=True)]
        torch._foreach_div_(results, norms)  # pyright: ignore[reportPrivateImportUsage]
        return None, None, None, *results
