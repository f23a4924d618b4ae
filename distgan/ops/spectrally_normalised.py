"""Spectral normalisation of a whole network, in one call of each operator (distgan/ops/spectral_norm.py)."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from distgan.ops.spectral_norm import EPS, spectral_norm_power_iteration_, spectral_norm_scale

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

FIRST_ITERATIONS = 16  # before the first use, as torch: 15 when its parametrisation is made, and one when it is registered


class SpectrallyNormalised(nn.Module):
    """Calls a network with every weight of its `LAYERS` divided by that weight's spectral norm (Miyato et al. 2018, arXiv 1802.05957).

    Biases, norms and everything else stay as they are. The network itself is not touched: its parameters are what is trained, and
    the normalised weights are passed in by `torch.func.functional_call`. A weight that several layers share counts once.

    Args:
        network: on its device; shared, not copied.
        iterations: power iterations each time that it iterates.
        eps: the smallest norm that a weight is taken to have.

    Raises:
        ValueError: the network has nothing to normalise, or something that is normalised or parametrised already.
    """

    network: nn.Module
    u: Tensor  # [sum of rows] fp32 (float64 for a float64 network): the left singular vectors, in the order of `named_modules`
    v: Tensor  # [sum of columns] likewise: the right ones

    def __init__(self, network: nn.Module, *, iterations: int = 1, eps: float = EPS) -> None:
        super().__init__()
        if not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"iterations is {iterations!r}; it has to be a whole number from 1.")
        _check(network)
        self.network = network
        self.iterations = iterations
        self.eps = eps
        self._names: dict[str, bool] = {}  # the first name of each weight, and whether its matrix is transposed
        seen: set[int] = set()
        for name, layer in _layers(network):
            if id(layer.weight) not in seen:
                seen.add(id(layer.weight))
                self._names[f"{name}weight"] = isinstance(layer, TRANSPOSED)
        matrices = [matrix.detach() for matrix in self._matrices()]
        # Drawn layer by layer, u before v, as torch's parametrisation draws: the same seed gives the same vectors, here and there.
        vectors = [(_unit_vector(matrix, matrix.shape[0]), _unit_vector(matrix, matrix[0].numel())) for matrix in matrices]
        self.register_buffer("u", torch.cat([u for u, _ in vectors]))
        self.register_buffer("v", torch.cat([v for _, v in vectors]))
        spectral_norm_power_iteration_(matrices, self.u, self.v, FIRST_ITERATIONS, eps)

    def normalised(self, *, iterate: bool, dtype: torch.dtype | None = None) -> Callable[..., Any]:
        """The network with its weights normalised now, as a function: call it as often as needed, then backpropagate, once.

        Gradients flow to the weights (once, not twice, through the norms), with u and v as constants. All calls share one graph from
        the weights to their norms: a second backward needs `normalised(iterate=False)` again before it.

        Args:
            iterate: run the power iteration first, in place on `u` and `v`.
            dtype: of the normalised weights; None: as the weights are.
        """
        weights = self._normalised_weights(self.iterations if iterate else 0, dtype)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return functional_call(self.network, weights, arguments, keywords)

        return call

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SpectrallyNormalised":
        """What `.to()`, `.cuda()`, `.bfloat16()` and the like call: `u` and `v` go along, but never below fp32."""
        exact = self.u, self.v
        super()._apply(fn, recurse)
        if not self.u.is_meta and not exact[0].is_meta:  # on meta there is nothing to keep
            dtype = torch.promote_types(self.u.dtype, torch.float32)
            self.u, self.v = (before.to(self.u.device, dtype) for before in exact)
        return self

    def extra_repr(self) -> str:
        """The weights that are normalised, for print(network)."""
        return f"normalised: {', '.join(self._names)}"

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """As torch's parametrisation: iterates in training mode, not in evaluation mode."""
        return self.normalised(iterate=self.training)(*arguments, **keywords)

    @torch.no_grad()
    def exported(self) -> nn.Module:
        """A copy of the network whose weights are divided by their norms for good: a plain module that gives the same output."""
        plain = copy.deepcopy(self.network)
        for name, weight in self._normalised_weights(iterations=0).items():
            plain.get_parameter(name).copy_(weight)
        return plain

    def torch_state_dict(self) -> dict[str, Tensor]:
        """What `state_dict()` of the same network gives with `torch.nn.utils.parametrizations.spectral_norm` on each of the layers.

        The tensors are this module's own memory, as in `state_dict()`.
        """
        matrices = self._matrices()
        us = self.u.split([matrix.shape[0] for matrix in matrices])
        vs = self.v.split([matrix[0].numel() for matrix in matrices])
        vectors = {id(self.network.get_parameter(name)): pair for name, *pair in zip(self._names, us, vs, strict=True)}
        state = self.network.state_dict()
        for name, layer in _layers(self.network):
            prefix = f"{name}parametrizations.weight"
            u, v = vectors[id(layer.weight)]
            state |= {f"{prefix}.original": state.pop(f"{name}weight"), f"{prefix}.0._u": u, f"{prefix}.0._v": v}
        return state

    @torch.no_grad()
    def load_torch_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over such a state. Layers that share a weight have vectors each there: the last one's are kept.

        Raises:
            ValueError: names what is missing, too many or of another shape; nothing has been changed then.
        """
        own = self.torch_state_dict()
        problems = [f"{key} is missing" for key in own if key not in state]
        problems += [f"{key} is nothing that the network has" for key in state if key not in own]
        problems += [
            f"{key} has the shape {list(state[key].shape)} instead of {list(tensor.shape)}"
            for key, tensor in own.items()
            if key in state and state[key].shape != tensor.shape
        ]
        if problems:
            raise ValueError(f"The state does not fit the network: {'; '.join(problems)}.")
        for key, tensor in own.items():
            tensor.copy_(state[key])

    def _matrices(self) -> list[Tensor]:
        """The weights, rows first: of the network's parameters, or of what stands in their place within `functional_call`."""
        weights = [(_attribute(self.network, name), transposed) for name, transposed in self._names.items()]
        return [_oriented(weight, transposed) for weight, transposed in weights]

    def _norms(self, iterations: int) -> Tensor:
        """sigma [number of weights], after so many iterations of `u` and `v`."""
        return spectral_norm_power_iteration_([matrix.detach() for matrix in self._matrices()], self.u, self.v, iterations, self.eps)

    def _normalised_weights(self, iterations: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        sigma = self._norms(iterations)
        # The graph keeps copies: a later iteration moves the buffers in place, and may come before this one's backward.
        scaled = spectral_norm_scale(self._matrices(), self.u.clone(), self.v.clone(), sigma, dtype)
        return {name: _oriented(matrix, transposed) for (name, transposed), matrix in zip(self._names.items(), scaled, strict=True)}


def spectral_norm(network: nn.Module, *, iterations: int = 1, eps: float = EPS) -> SpectrallyNormalised:
    """`network` with all its weights spectrally normalised; see `SpectrallyNormalised`."""
    return SpectrallyNormalised(network, iterations=iterations, eps=eps)


def _check(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, SpectrallyNormalised):
            raise ValueError(f"{name or 'The network'} is spectrally normalised already; pass the plain network.")
        if isinstance(module, LAYERS) and "weight" not in module._parameters:
            raise ValueError(
                f"The weight of {name or 'the network'} is parametrised already; pass a plain network, "
                "and a state of torch's parametrisation to load_torch_state_dict."
            )
    if next(_layers(network), None) is None:
        raise ValueError("The network has no layer to normalise (linear, bilinear, embedding, convolution); use it as it is.")


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """('prefix.', layer) of each layer with a weight to normalise, under each of its names."""
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, LAYERS):
            yield f"{name}." if name else "", module


def _attribute(network: nn.Module, name: str) -> Tensor:
    module, _, attribute = name.rpartition(".")
    return getattr(network.get_submodule(module), attribute)


def _oriented(tensor: Tensor, transposed: bool) -> Tensor:
    """A weight as the matrix is read from it and back: a transposed convolution has its outputs (the rows) in dimension 1."""
    return tensor.transpose(0, 1) if transposed else tensor


def _unit_vector(matrix: Tensor, size: int) -> Tensor:
    at_least_fp32 = torch.promote_types(matrix.dtype, torch.float32)
    return F.normalize(torch.randn(size, dtype=at_least_fp32, device=matrix.device), dim=0)
