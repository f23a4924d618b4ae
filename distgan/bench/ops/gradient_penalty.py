"""The two operators of a gradient penalty, beside plain PyTorch: what it penalises, and the penalty of the gradients found there."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from distgan.bench.measure import COPY, Contestant, Row
from distgan.bench.ops.tools import compiled, foreach_copy
from distgan.ops import gradient_penalty, gradient_penalty_interpolate
from distgan.ops.gradient_penalty_interpolate import Mode

FORWARD = "gradient_penalty forward"
BACKWARD = "gradient_penalty forward + backward"
INTERPOLATE = "gradient_penalty_interpolate"

SHAPES = [(64, 1, 32, 32), (64, 3, 64, 64), (32, 3, 256, 256)]
CENTER, WEIGHT = 1.0, 10.0  # WGAN-GP's
SEED, OFFSET = 1234567890123, 64  # of the shares: the key, and the number of the first sample


def subject(shape: Sequence[int]) -> str:
    return f"{list(shape)}, {4 * math.prod(shape) / 1e6:.3g} MB"


def eager_penalty(gradients: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    """`distgan.ops.gradient_penalty` in plain PyTorch."""
    squares = gradients.flatten(1).square().sum(dim=1)  # [N]
    # The root has no slope at 0: keep it away from there, and let no NaN through the branch that is not taken.
    nonzero = squares > 0
    norms = torch.where(nonzero, torch.where(nonzero, squares, 1.0).sqrt(), 0.0)
    penalty = squares if center == 0 else (norms - center).square()
    return weight * penalty.mean(), norms


def eager_interpolate(real: Tensor, fake: Tensor, mode: Mode) -> Tensor:
    """`distgan.ops.gradient_penalty_interpolate` in plain PyTorch, with torch's own random shares."""
    if real.dtype == torch.uint8:
        real = real.float().mul_(2 / 255).sub_(1)
    if mode == "real":
        return real.clone()
    return torch.lerp(fake, real, torch.rand(len(real), 1, 1, 1, device=real.device))


class Gradients:
    """Input gradients of norms about 3, which need a graph, as those of a penalty do."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        torch.compiler.reset()
        gradients = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
        self.tensor = gradients.mul_(3 / math.prod(shape[1:]) ** 0.5).requires_grad_()

    def forward(self, penalty: Callable) -> Contestant:
        return Contestant(lambda: penalty(self.tensor, CENTER, WEIGHT))

    def backward(self, penalty: Callable) -> Contestant:
        return Contestant(lambda: torch.autograd.grad(penalty(self.tensor, CENTER, WEIGHT)[0], self.tensor))


class Images:
    """Real images of a type, fake ones, and a way to compare mixtures whose shares differ."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        torch.compiler.reset()
        generator = torch.Generator(device).manual_seed(0)
        bytes_ = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
        self.real = bytes_ if dtype == torch.uint8 else eager_interpolate(bytes_, bytes_, "real")
        self.fake = torch.rand(shape, generator=generator, device=device).mul_(2).sub_(1)

    def contestant(self, interpolate: Callable[[Tensor, Tensor], Tensor]) -> Contestant:
        return Contestant(lambda: [interpolate(self.real, self.fake)], verify=lambda: [self._aligned(interpolate(self.real, self.fake))])

    def _aligned(self, images: Tensor) -> Tensor:
        """Every image moved along the line through its real and its fake one to the real one: what is left is distance from the line.

        An image whose share is outside [0, 1] becomes NaN.
        """
        real = eager_interpolate(self.real, self.fake, "real")
        line = (real - self.fake).flatten(1)  # [N, C * H * W]
        shares = ((images - self.fake).flatten(1) * line).sum(1) / line.square().sum(1)  # [N]
        shares = torch.where((shares > -1e-5) & (shares < 1 + 1e-5), shares, torch.nan)
        return images + ((1 - shares)[:, None] * line).view_as(images)


def rows(device: torch.device, shapes: Sequence[Sequence[int]] = SHAPES) -> Iterator[Row]:
    """The penalty and, for the larger images, the interpolation."""
    for shape in shapes:
        yield from _penalty_rows(shape, device)
    for shape in shapes[1:]:
        yield _interpolation_row(shape, "mixture", torch.float32, device)
        yield _interpolation_row(shape, "mixture", torch.uint8, device)
        yield _interpolation_row(shape, "real", torch.uint8, device)


def _penalty_rows(shape: Sequence[int], device: torch.device) -> Iterator[Row]:
    problem = cache(lambda: Gradients(shape, device))
    size = 4 * math.prod(shape)
    # Forward reads the gradients; backward reads them again, their norms known, and writes as much.
    for group, way, passes in ((FORWARD, Gradients.forward, 1), (BACKWARD, Gradients.backward, 3)):
        contestants = {
            "eager": lambda way=way: way(problem(), eager_penalty),
            "compile": lambda way=way: way(problem(), compiled(eager_penalty)),
            "distgan": lambda way=way: way(problem(), gradient_penalty),
            COPY: lambda: foreach_copy([problem().tensor]),
        }
        yield Row(group, subject(shape), passes * size, contestants)


def _interpolation_row(shape: Sequence[int], mode: Mode, dtype: torch.dtype, device: torch.device) -> Row:
    problem = cache(lambda: Images(shape, dtype, device))
    eager = partial(eager_interpolate, mode=mode)
    contestants = {
        "eager": lambda: problem().contestant(eager),
        "compile": lambda: problem().contestant(compiled(eager)),
        "distgan": lambda: problem().contestant(partial(gradient_penalty_interpolate, seed=SEED, offset=OFFSET, mode=mode)),
        COPY: lambda: foreach_copy([problem().fake]),
    }
    read = math.prod(shape) * (dtype.itemsize + (4 if mode == "mixture" else 0))
    return Row(INTERPOLATE, f"{list(shape)}, {mode}, {str(dtype).removeprefix('torch.')}", read + 4 * math.prod(shape), contestants)
