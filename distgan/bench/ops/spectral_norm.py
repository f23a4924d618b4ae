"""Spectral normalisation of all weights of a network, in training: one power iteration, then W / sigma with a graph to the weights."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from distgan.bench.measure import COPY, Contestant, Row
from distgan.bench.networks import DISCRIMINATORS, Network
from distgan.bench.ops.foreach import foreach_spectral_norm
from distgan.bench.ops.tools import compiled, cuda_graph, foreach_copy
from distgan.ops import spectral_norm_power_iteration_, spectral_norm_scale

FORWARD = "spectral_norm forward"
BACKWARD = "spectral_norm forward + backward"
TWO_FORWARDS = "spectral_norm phase of two forwards"

Normalise = Callable[[], Sequence[Tensor]]


class _Layer(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class Problem:
    """The weights of one network, the start of the iteration, and every way to normalise. Ways share the weights and nothing else."""

    def __init__(self, network: Network, device: torch.device) -> None:
        torch.compiler.reset()  # the guards of networks before would be tried at every call
        self.device = device
        weights, self.output_gradients = network.draw(device, 2)
        self.weights = [nn.Parameter(weight) for weight in weights]
        self._layers = [cast(_Layer, spectral_norm(_Layer(weight))) for weight in self.weights]

    def layers(self) -> list[_Layer]:
        """torch's own parametrisation of each weight, with vectors of its own."""
        return copy.deepcopy(self._layers, {id(weight): weight for weight in self.weights})

    def vectors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Where the iteration starts: u and v of each weight."""
        norms = [layer.get_submodule("parametrizations.weight.0") for layer in self.layers()]
        return [norm.get_buffer("_u") for norm in norms], [norm.get_buffer("_v") for norm in norms]

    def eager(self) -> Normalise:
        return _normalised(self.layers())

    @cached_property
    def _compiled(self) -> tuple[list[_Layer], Normalise]:
        layers = self.layers()
        return layers, compiled(_normalised(layers))

    def compiled(self) -> Normalise:
        """Compiled once for several rows, each of which starts from the same vectors."""
        layers, normalise = self._compiled
        for layer, start in zip(layers, self._layers, strict=True):
            layer.load_state_dict(start.state_dict())
        return normalise

    def foreach(self) -> Normalise:
        us, vs = self.vectors()
        return lambda: foreach_spectral_norm(self.weights, us, vs)

    def distgan(self) -> Normalise:
        u, v = (torch.cat(vectors) for vectors in self.vectors())
        return lambda: spectral_norm_scale(self.weights, u, v, spectral_norm_power_iteration_(self.weights, u, v))

    def backward(self, normalise: Normalise) -> Normalise:
        return lambda: torch.autograd.grad(normalise(), self.weights, self.output_gradients)

    def graphed(self, backward: bool) -> Normalise:
        layers = self.layers()
        normalise = _normalised(layers)
        state = [buffer for layer in layers for buffer in layer.buffers()]
        return cuda_graph(self.backward(normalise) if backward else normalise, state, self.device)

    def copy(self) -> Contestant:
        return foreach_copy(self.weights)


def _normalised(layers: Sequence[_Layer]) -> Normalise:
    return lambda: [layer.weight for layer in layers]


def _twice(normalise: Normalise) -> Normalise:
    """The weights of a network that is called twice; the first use is what can be compared."""

    def run() -> Sequence[Tensor]:
        first = normalise()
        normalise()
        return first

    return run


def _cached(normalise: Normalise) -> Normalise:
    def run() -> Sequence[Tensor]:
        with parametrize.cached():
            return _twice(normalise)()

    return run


def rows(device: torch.device, networks: Sequence[Network] = DISCRIMINATORS) -> Iterator[Row]:
    """Three rows for each network, which share its weights and what was compiled for it."""
    for network in networks:
        yield from _rows_of(network, cache(partial(Problem, network, device)))


def _rows_of(network: Network, problem: Callable[[], Problem]) -> Iterator[Row]:
    # W is read for the iteration and, its norm known, once more to write W / sigma.
    forward = {
        "eager": lambda: Contestant(problem().eager()),
        "foreach": lambda: Contestant(problem().foreach()),
        "compile": lambda: Contestant(problem().compiled()),
        "CUDA graph": lambda: Contestant(problem().graphed(backward=False)),
        "distgan": lambda: Contestant(problem().distgan()),
        COPY: lambda: problem().copy(),
    }
    yield Row(FORWARD, str(network), 3 * network.num_bytes, forward)
    two_forwards = {
        "eager": lambda: Contestant(_twice(problem().eager())),
        "parametrize.cached": lambda: Contestant(_cached(problem().eager())),
        "distgan": lambda: Contestant(problem().distgan()),
        COPY: lambda: problem().copy(),
    }
    yield Row(TWO_FORWARDS, str(network), 3 * network.num_bytes, two_forwards)
    # Backward reads the gradient G and W / sigma for their product, then G again to write the gradient of W.
    backward = {
        "eager": lambda: Contestant(problem().backward(problem().eager())),
        "foreach": lambda: Contestant(problem().backward(problem().foreach())),
        "compile": lambda: Contestant(problem().backward(problem().compiled())),
        "CUDA graph": lambda: Contestant(problem().graphed(backward=True)),
        "distgan": lambda: Contestant(problem().backward(problem().distgan())),
        COPY: lambda: problem().copy(),
    }
    yield Row(BACKWARD, str(network), 7 * network.num_bytes, backward)
