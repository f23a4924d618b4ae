"""Spectral normalisation of all weights of a network at once (Miyato et al. 2018, arXiv 1802.05957).

A weight of any shape is a matrix W: its rows are dimension 0, its columns all others, in their logical order (so a transposed
convolution's weight is passed as `weight.transpose(0, 1)`). The vectors of all weights lie in one tensor each, in the order of
the list: `u` [sum of rows] and `v` [sum of columns].

One power iteration (algorithm 1 of the paper) starts from v and reads W once: with y = W v and z = W^T y, each row adds to z while
it is still at hand; then u = y / |y|, v = z / |z|, and the norm u^T W v is |z| / |y|.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from distgan.ops import library
from distgan.ops.checks import FLOATING, name, require, require_floating, require_tensors

EPS = 1e-12  # smallest norm that a matrix is taken to have: keeps a zero matrix zero instead of NaN


def spectral_norm_power_iteration_(weights: Sequence[Tensor], u: Tensor, v: Tensor, iterations: int = 1, eps: float = EPS) -> Tensor:
    """Iterate `u` and `v` in place and return the spectral norms; nothing here is differentiable.

    Args:
        weights: fp32 or bf16, of any shape with at least one dimension and any strides. Entries beyond 1e-18 to 1e18 in size are lost.
        u, v: fp32, contiguous. Where a matrix is zero or v is in its null space, they stay as they are.
        iterations: 0 computes u^T W v and writes nothing.
        eps: a norm smaller than this is returned as this.

    Returns:
        sigma [number of weights], fp32. The same bits on every rank, in every run, at every number of threads.
    """
    weights = list(weights)
    require_tensors(("weights", weights), ("u", u), ("v", v))
    if weights and library.serves(u, weights[0]):
        with torch.no_grad():
            return torch.ops.distgan.spectral_norm_power_iteration_(weights, u, v, iterations, eps)
    return spectral_norm_power_iteration_reference_(weights, u, v, iterations, eps)


def spectral_norm_scale(weights: Sequence[Tensor], u: Tensor, v: Tensor, sigma: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Every weight divided by its norm, differentiable once in the weights.

    Args:
        weights, u, v, sigma: as above, after the iteration; sigma [number of weights].
        dtype: of the result, fp32 or bf16; None: each weight's own.

    Returns:
        A tensor of each weight's shape. With G the gradient of one, the weight's is (G - <G, W / sigma> u v^T) / sigma
        (the paper's eq. 12): u and v count as constant. A second derivative through the compiled operator raises.
    """
    weights = list(weights)
    require_tensors(("weights", weights), ("u", u), ("v", v), ("sigma", sigma))
    require(len(weights) > 0, "weights is empty; pass at least one weight.")
    dtype = dtype or weights[0].dtype
    if library.serves(u, weights[0]):
        if torch.compiler.is_compiling():
            return torch.ops.distgan.spectral_norm_scale(weights, u, v, sigma, dtype)
        return list(_Scale.apply(u, v, sigma, dtype, *weights))
    return spectral_norm_scale_reference(weights, u, v, sigma, dtype)


def _matrices(weights: Sequence[Tensor], u: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(W [R, C], its part of u [R], its part of v [C]) of each weight, in the precision of u."""
    require(len(weights) > 0, "weights is empty; pass at least one weight.")
    for number, weight in enumerate(weights):
        require(weight.dim() > 0, f"weights[{number}] has no dimension; a weight has at least one, its rows.")
        require_floating(f"weights[{number}]", weight)
    exact = torch.float64 if any(weight.dtype == torch.float64 for weight in weights) else torch.float32
    for what, vectors in (("u", u), ("v", v)):
        taken = (torch.float64,) if exact == torch.float64 else (torch.float32, torch.float64)
        require(vectors.dtype in taken, f"{what} is {name(vectors)}, but it has to be {name(exact)}.")
    require(u.dtype == v.dtype, f"u is {name(u)} and v is {name(v)}; they need one dtype.")
    matrices = [weight.flatten(1) if weight.dim() > 1 else weight[:, None] for weight in weights]
    for what, vectors, dimension, sides in (("u", u, 0, "rows"), ("v", v, 1, "columns")):
        size = sum(matrix.shape[dimension] for matrix in matrices)
        require(
            list(vectors.shape) == [size],
            f"{what} is {list(vectors.shape)}, but the weights have {size} {sides} in all; it has to be [{size}].",
        )
    us = u.split([matrix.shape[0] for matrix in matrices])
    vs = v.split([matrix.shape[1] for matrix in matrices])
    return [(matrix.to(u.dtype), layer_u, layer_v) for matrix, layer_u, layer_v in zip(matrices, us, vs, strict=True)]


@torch.no_grad()
def spectral_norm_power_iteration_reference_(
    weights: Sequence[Tensor], u: Tensor, v: Tensor, iterations: int = 1, eps: float = EPS
) -> Tensor:
    """`spectral_norm_power_iteration_` in plain PyTorch, in the precision of `u`."""
    require(iterations >= 0, f"iterations is {iterations}, but it has to be 0 (only measure) or more.")
    require(eps > 0, f"eps is {eps:g}, but it has to be positive: it is the smallest norm a matrix is taken to have.")
    for what, vectors in (("u", u), ("v", v)) if iterations else ():
        sentence = f"{what} is written through and has to be contiguous; pass {what}.contiguous() and copy back."
        require(vectors.is_contiguous(), sentence)
    sigmas = []
    for matrix, layer_u, layer_v in _matrices(weights, u, v):
        sigma = layer_u @ (matrix @ layer_v) if iterations == 0 else layer_u.new_zeros(())
        for _ in range(iterations):
            y = matrix @ layer_v
            z = matrix.T @ y
            y_norm, z_norm = y.norm(), z.norm()
            moves = ~((y_norm == 0) | (z_norm == 0))  # NaN moves: it has to be seen
            layer_u.copy_(torch.where(moves, y / y_norm, layer_u))
            layer_v.copy_(torch.where(moves, z / z_norm, layer_v))
            sigma = torch.where(moves, z_norm / y_norm, 0.0)
        sigmas.append(torch.where(sigma.abs() < eps, eps, sigma))
    return torch.stack(sigmas)


def spectral_norm_scale_reference(weights: Sequence[Tensor], u: Tensor, v: Tensor, sigma: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """`spectral_norm_scale` in plain PyTorch; autograd differentiates it."""
    matrices, count = _matrices(weights, u, v), len(weights)
    require(sigma.dtype == u.dtype, f"sigma is {name(sigma)}, but it has to be {name(u)}, as u is.")
    require(dtype in FLOATING, f"dtype is {name(dtype)}, but it has to be float32 or bfloat16.")
    require(list(sigma.shape) == [count], f"sigma is {list(sigma.shape)}, but there are {count} weights; it has to be [{count}].")
    scaled = []
    for weight, (matrix, layer_u, layer_v), layer_sigma in zip(weights, matrices, sigma, strict=True):
        norm = layer_u @ (matrix @ layer_v)
        norm = layer_sigma + (norm - norm.detach())  # the value that was given, the slope u v^T
        scaled.append((weight.to(u.dtype) / norm).to(dtype))
    return scaled


def _scale_backward(ctx: Any, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    u, v, sigma, *weights = ctx.saved_tensors
    full = [torch.zeros_like(weight) if gradient is None else gradient for gradient, weight in zip(gradients, weights, strict=True)]
    return torch.ops.distgan.spectral_norm_scale_backward(full, weights, u, v, sigma)


class _Scale(Function):
    """The operator for eager calls: with many tensors the dispatcher's own way to a Python backward takes as long as the work.

    Not for compiled functions: under a compiled `torch.func.grad` a Function gives wrong gradients without a word (pytorch#193279).
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, sigma: Tensor, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, v, sigma, *weights)
        return tuple(torch.ops.distgan.spectral_norm_scale(weights, u, v, sigma, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *_scale_backward(ctx, gradients)


if library.is_compiled("cpu"):

    @torch.library.register_fake("distgan::spectral_norm_power_iteration_")
    def _(weights: list[Tensor], u: Tensor, v: Tensor, iterations: int, eps: float) -> Tensor:
        return u.new_empty(len(weights))

    @torch.library.register_fake("distgan::spectral_norm_scale")
    def _(weights: list[Tensor], u: Tensor, v: Tensor, sigma: Tensor, dtype: torch.dtype) -> list[Tensor]:
        return [torch.empty_like(weight, dtype=dtype) for weight in weights]

    @torch.library.register_fake("distgan::spectral_norm_scale_backward")
    def _(gradients: list[Tensor], weights: list[Tensor], u: Tensor, v: Tensor, sigma: Tensor) -> list[Tensor]:
        return [torch.empty_like(weight) for weight in weights]

    def _save(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
        weights, u, v, sigma, _ = inputs
        ctx.save_for_backward(u, v, sigma, *weights)

    def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[list[Tensor], None, None, None, None]:
        return _scale_backward(ctx, gradients), None, None, None, None

    def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(
            "spectral_norm_scale has no second derivative; normalise the weights outside of the function that is differentiated twice, "
            "as distgan.ops.spectral_norm(network).normalised() does."
        )

    torch.library.register_autograd("distgan::spectral_norm_scale", _backward, setup_context=_save)
    torch.library.register_autograd("distgan::spectral_norm_scale_backward", _no_second_derivative)
