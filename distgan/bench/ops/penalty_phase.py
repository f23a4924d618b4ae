"""A discriminator's whole penalty phase: the gradient of an exact penalty in every weight, from images.

Every contestant's gradient is compared with stock PyTorch's in float64: in fp32 a LeakyReLU whose input is near zero may take the
other branch, which changes single layers by far more than rounding does.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from distgan.bench.measure import Contestant, Row
from distgan.bench.ops.gradient_penalty import CENTER, WEIGHT, eager_penalty
from distgan.bench.ops.tools import compiled, cuda_graph
from distgan.models import dcgan
from distgan.models.base import Discriminator, ImageShape
from distgan.regularizers import Formulation, exact_penalty

PHASE = "penalty phase"
NUM_IMAGES = 64
NUM_VERIFIED = 4  # images in float64: enough to tell one gradient from another

Gradient = Callable[[Discriminator, Tensor], Sequence[Tensor]]  # (discriminator, images) -> the gradient in each parameter


class ResidualDiscriminator(Discriminator):
    """Two residual blocks of 3x3 convolutions with ReLU, 32x32 -> 8x8, the sum over pixels, a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))
            for _ in range(2)
        )
        self.head = nn.Linear(channels, 1)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = nn.functional.avg_pool2d(x + block(x), 2)
        return self.head(x.relu().sum(dim=(2, 3))).squeeze(1)


def _dcgan(size: int) -> Discriminator:
    return dcgan.build(dcgan.Options(), ImageShape(3, size), None)[1]


DISCRIMINATORS: dict[str, tuple[int, Callable[[], Discriminator]]] = {
    "LeakyReLU, dcgan, 32 pixels": (32, partial(_dcgan, 32)),
    "LeakyReLU, dcgan, 64 pixels": (64, partial(_dcgan, 64)),
    "ReLU, residual, 32 pixels": (32, partial(ResidualDiscriminator, 64)),
}


def stock(discriminator: Discriminator, images: Tensor) -> Sequence[Tensor]:
    """As everyone writes it: torch.autograd.grad with create_graph, and a backward through it."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images, None).sum(), images, create_graph=True)
    return _in_parameters(eager_penalty(gradients, CENTER, WEIGHT)[0], discriminator)


def distgan(discriminator: Discriminator, images: Tensor, formulation: Formulation) -> Sequence[Tensor]:
    return _in_parameters(exact_penalty(discriminator, images, None, CENTER, WEIGHT, formulation)[0], discriminator)


def _in_parameters(penalty: Tensor, discriminator: Discriminator) -> Sequence[Tensor]:
    return torch.autograd.grad(penalty, list(discriminator.parameters()), allow_unused=True, materialize_grads=True)


def functional(discriminator: Discriminator, images: Tensor) -> Sequence[Tensor]:
    """torch.func.grad within torch.func.grad: what torch.compile can take as one graph."""

    def penalty(parameters: dict[str, Tensor]) -> Tensor:
        return eager_penalty(_input_gradients(discriminator, parameters, images), CENTER, WEIGHT)[0]

    return list(grad(penalty)(_parameters(discriminator)).values())


def functional_forward_over_reverse(discriminator: Discriminator, images: Tensor) -> Sequence[Tensor]:
    """The gradient of D's derivative along v = dP/dg, which is held fixed."""
    parameters = _parameters(discriminator)
    gradients = _input_gradients(discriminator, parameters, images)
    direction = grad(lambda gradients: eager_penalty(gradients, CENTER, WEIGHT)[0])(gradients)

    def slope(parameters: dict[str, Tensor]) -> Tensor:
        return jvp(lambda images: _sum_of_logits(discriminator, parameters, images), (images,), (direction,))[1]

    return list(grad(slope)(parameters).values())


def _parameters(discriminator: Discriminator) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in discriminator.named_parameters()}


def _input_gradients(discriminator: Discriminator, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    return grad(lambda images: _sum_of_logits(discriminator, parameters, images))(images)


def _sum_of_logits(discriminator: Discriminator, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    return functional_call(discriminator, parameters, (images, None)).sum()


def _compiled_without_zeros(gradient: Gradient) -> Gradient:
    from distgan.ops.zero_propagation import COMPILE_OPTIONS  # imports Inductor, which takes a second

    return compiled(gradient, COMPILE_OPTIONS)


class Problem:
    """A discriminator and images, in fp32 for the clock and fewer of them in float64 for the comparison."""

    def __init__(self, build: Callable[[], Discriminator], image_size: int, num_images: int, device: torch.device) -> None:
        torch.compiler.reset()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.discriminator, self.in_float64 = build().to(device), build().double().to(device)
            self.images = torch.randn(num_images, 3, image_size, image_size).to(device)
        self.in_float64.load_state_dict(self.discriminator.state_dict())
        self.device = device

    def contestant(self, gradient: Gradient) -> Contestant:
        return Contestant(
            lambda: gradient(self.discriminator, self.images),
            verify=lambda: gradient(self.in_float64, self.images[:NUM_VERIFIED].double()),
        )

    def graphed(self) -> Contestant:
        def graph(discriminator: Discriminator, images: Tensor) -> Sequence[Tensor]:
            return cuda_graph(lambda: stock(discriminator, images), [], self.device)()

        replay = cuda_graph(lambda: stock(self.discriminator, self.images), [], self.device)
        return Contestant(replay, verify=lambda: graph(self.in_float64, self.images[:NUM_VERIFIED].double()))


def rows(device: torch.device, num_images: int = NUM_IMAGES) -> Iterator[Row]:
    """A row for each discriminator."""
    for name, (image_size, build) in DISCRIMINATORS.items():
        yield _row(f"{name}, batch {num_images}", cache(partial(Problem, build, image_size, num_images, device)))


def _row(subject: str, problem: Callable[[], Problem]) -> Row:
    contestants = {
        "stock": lambda: problem().contestant(stock),
        "compile": lambda: problem().contestant(compiled(functional)),
        "compile, forward over reverse": lambda: problem().contestant(compiled(functional_forward_over_reverse)),
        "compile, zeros propagated": lambda: problem().contestant(_compiled_without_zeros(functional)),
        "CUDA graph": lambda: problem().graphed(),
        "forward over reverse": lambda: problem().contestant(partial(distgan, formulation="forward_over_reverse")),
        "distgan": lambda: problem().contestant(partial(distgan, formulation="double_backward")),
    }
    return Row(PHASE, subject, None, contestants)
