"""Spectral norm of a whole network against torch's own parametrisation on a copy of it.

In float64, which the reference twins serve; the training steps also in float32, where the compiled operators serve if they are there.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from distgan.ops.spectrally_normalised import LAYERS, SpectrallyNormalised, spectral_norm


class EveryLayer(nn.Module):
    """One of each layer that is normalised, a weight that two layers share, and norms and biases that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.tied = nn.Linear(6, 7)
        self.tied.weight = self.embedding.weight
        self.one = nn.Sequential(nn.Conv1d(7, 4, 3, groups=1), nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False))
        self.norm = nn.LayerNorm(6)
        self.two = nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2))
        self.three = nn.Sequential(nn.Conv3d(1, 2, 2), nn.ConvTranspose3d(2, 3, 2))
        self.bilinear = nn.Bilinear(3, 6, 5)

    def forward(self, words: Tensor) -> Tensor:
        x = self.norm(self.embedding(words))  # [N, 5, 6]
        x = self.one(self.tied(x).transpose(1, 2)).tanh()  # [N, 6, 5]
        y = self.two(x[:, None]).tanh()  # [N, 6, 9, 7]
        z = self.three(y[:, None, :4, :4, :4]).mean(dim=(2, 3, 4))  # [N, 3]
        return self.bilinear(z, x.mean(dim=2))  # [N, 5]


def _network() -> EveryLayer:
    torch.manual_seed(0)
    return EveryLayer().double()


def _words(seed: int) -> Tensor:
    return torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(seed))


def _of_torch(network: nn.Module) -> nn.Module:
    """A copy with torch's parametrisation on each of the layers."""
    network = copy.deepcopy(network)
    for layer in list(network.modules()):
        if isinstance(layer, LAYERS):
            parametrizations.spectral_norm(layer)
    return network


def _pair(dtype: torch.dtype = torch.float64) -> tuple[SpectrallyNormalised, nn.Module]:
    """Ours and torch's with the same weights and vectors."""
    ours = spectral_norm(_network().to(dtype))
    theirs = _of_torch(ours.network)
    theirs.load_state_dict(ours.torch_state_dict())
    return ours, theirs


def _state_of_torch(theirs: nn.Module) -> dict[str, Tensor]:
    """Torch iterates a shared weight's vectors for each layer by itself, and does not meet them in the other: ours are one pair."""
    return {name: value for name, value in theirs.state_dict().items() if not name.startswith("tied.parametrizations")}


def _assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        exact = value.dtype == torch.float64
        rtol, atol = (1e-10, 1e-12) if exact else (1e-4, 1e-5)
        torch.testing.assert_close(ours[name], value, rtol=rtol, atol=atol, msg=lambda message, name=name: f"{name}: {message}")


def test_the_same_seed_draws_what_torch_draws() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ConvTranspose1d(4, 2, 3), nn.Embedding(5, 3)).double()
    torch.manual_seed(1)
    theirs = _of_torch(network).state_dict()
    torch.manual_seed(1)
    ours = spectral_norm(network)
    assert ours.torch_state_dict().keys() == theirs.keys()
    _assert_same(ours.torch_state_dict(), theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_five_training_steps_equal_torchs(dtype: torch.dtype) -> None:
    ours, theirs = _pair(dtype)
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in (ours, theirs)]
    for step in range(5):
        results = []
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            output = network(_words(step))
            output.square().sum().backward()
            named = {name.replace("parametrizations.weight.original", "weight"): p.grad for name, p in network.named_parameters()}
            results.append({name.removeprefix("network."): gradient for name, gradient in named.items()} | {"output": output.detach()})
        assert results[0].keys() == results[1].keys()
        _assert_same(*results)
        for optimizer in optimizers:
            optimizer.step()
    _assert_same(ours.torch_state_dict(), _state_of_torch(theirs))
    weights = {f"{name}.weight": layer.weight for name, layer in theirs.eval().named_modules() if isinstance(layer, LAYERS)}
    _assert_same(ours.exported().state_dict(), {name: weight for name, weight in weights.items() if name != "tied.weight"})


def test_states_go_both_ways() -> None:
    ours, theirs = _pair()
    assert ours.torch_state_dict().keys() == theirs.state_dict().keys()
    for step in range(3):
        theirs(_words(step))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.5)
    ours.load_torch_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(_words(9)), theirs.eval()(_words(9)), rtol=1e-10, atol=1e-12)
    back = _of_torch(_network())
    back.load_state_dict(ours.torch_state_dict())
    torch.testing.assert_close(back.eval()(_words(9)), theirs(_words(9)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda state: state.pop("one.0.parametrizations.weight.0._v"), r"one\.0\.parametrizations\.weight\.0\._v is missing"),
        (lambda state: state.update({"one.0.weight": torch.zeros(1)}), r"one\.0\.weight is nothing that the network has"),
        (
            lambda state: state.update({"one.1.parametrizations.weight.0._u": torch.zeros(4)}),
            r"one\.1\.parametrizations\.weight\.0\._u has the shape \[4\] instead of \[3\]",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(damage: Callable[[dict], object], sentence: str) -> None:
    ours = spectral_norm(_network())
    before = copy.deepcopy(ours.state_dict())
    state = {name: value + 1 for name, value in ours.torch_state_dict().items()}
    damage(state)
    with pytest.raises(ValueError, match=rf"^The state does not fit the network: {sentence}\.$"):
        ours.load_torch_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_what_is_exported_is_plain_and_gives_the_same() -> None:
    ours = spectral_norm(_network())
    exported = ours.exported()
    assert type(exported) is EveryLayer
    assert exported.state_dict().keys() == _network().state_dict().keys()
    assert exported.tied.weight is exported.embedding.weight
    assert not any(parametrize.is_parametrized(module) for module in exported.modules())
    torch.testing.assert_close(exported(_words(0)), ours.eval()(_words(0)))
    norms = [_norm(layer) for layer in exported.modules() if isinstance(layer, LAYERS)]
    assert norms == pytest.approx([1.0] * 9, abs=0.02), "after fifteen iterations"


def _norm(layer: nn.Module) -> float:
    """The spectral norm by singular values; the rows of a transposed convolution, its outputs, are dimension 1."""
    rows = 1 if "Transpose" in type(layer).__name__ else 0
    return float(torch.linalg.matrix_norm(layer.weight.detach().movedim(rows, 0).flatten(1), 2))


def test_two_forwards_may_precede_one_backward() -> None:
    """As in D(real) and D(fake); torch has the same test."""
    ours, theirs = _pair()
    for network in (ours, theirs):
        (network(_words(0)) - 2 * network(_words(1))).square().sum().backward()
    for name, parameter in theirs.named_parameters():
        mine = ours.network.get_parameter(name.replace("parametrizations.weight.original", "weight"))
        torch.testing.assert_close(mine.grad, parameter.grad)


def test_one_normalisation_serves_several_forwards() -> None:
    ours, theirs = _pair()
    call = ours.normalised(iterate=True)
    (call(_words(0)) - 2 * call(_words(1))).square().sum().backward()
    with parametrize.cached():
        (theirs(_words(0)) - 2 * theirs(_words(1))).square().sum().backward()
    torch.testing.assert_close(ours.network.one[1].weight.grad, theirs.one[1].parametrizations.weight.original.grad)


def test_an_input_gradients_penalty_and_a_directional_derivative_equal_torchs() -> None:
    """What exact penalties are made of, in both formulations."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(72, 1)).double()
    ours, theirs = spectral_norm(network), _of_torch(network)
    theirs.load_state_dict(ours.torch_state_dict())
    images = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    with parametrize.cached():
        results = []
        for call in (ours.normalised(iterate=True), theirs):
            (slopes,) = torch.autograd.grad(call(images).sum(), images, create_graph=True)
            _, along = torch.func.jvp(call, (images.detach(),), (torch.ones_like(images),))
            (slopes.square().sum() + along.square().sum()).backward()
            results.append((slopes.detach(), along.detach()))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other)
    for name in ("0", "2", "4"):
        mine, other = network.get_submodule(name), theirs.get_submodule(name)
        torch.testing.assert_close(mine.weight.grad, other.parametrizations.weight.original.grad)


def test_evaluation_and_a_plain_call_do_not_iterate() -> None:
    ours = spectral_norm(_network())
    u, v = ours.u.clone(), ours.v.clone()
    ours.eval()(_words(0))
    ours.normalised(iterate=False)(_words(0))
    ours.exported()
    assert torch.equal(ours.u, u)
    assert torch.equal(ours.v, v)
    with torch.no_grad():
        ours.network.one[0].weight.add_(torch.randn_like(ours.network.one[0].weight))
    ours.train()(_words(0))
    assert not torch.equal(ours.u, u)
    assert not torch.equal(ours.v, v)


def test_more_iterations_come_nearer_to_the_norm() -> None:
    network = nn.Sequential(nn.Linear(40, 30)).double()
    ours = spectral_norm(network, iterations=500)
    ours.normalised(iterate=True)
    assert _norm(ours.exported()[0]) == pytest.approx(1, abs=1e-9)


def test_a_copy_and_a_restored_state_go_on_by_themselves() -> None:
    ours = spectral_norm(_network())
    twin = copy.deepcopy(ours)
    restored = spectral_norm(_network())
    restored.load_state_dict(ours.state_dict())
    with torch.no_grad():
        twin.network.one[0].weight.add_(1)
    output = ours(_words(0))
    assert torch.equal(output, restored(_words(0)))
    assert not torch.equal(output, twin(_words(0)))
    assert torch.equal(ours.u, restored.u)


def test_it_follows_the_network_to_another_precision() -> None:
    torch.manual_seed(0)
    ours = spectral_norm(EveryLayer())
    assert ours.u.dtype == ours(_words(0)).dtype == torch.float32
    ours.to(torch.float64)
    assert ours.u.dtype == ours(_words(0)).dtype == torch.float64


def test_functional_call_puts_other_weights_in() -> None:
    """As an average is evaluated: by torch's own way to call a network with other weights."""
    ours, other = (spectral_norm(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()).eval() for _ in range(2))
    images = torch.randn(3, 5, dtype=torch.float64)
    state = {name: value.clone().requires_grad_(name.endswith("weight")) for name, value in other.state_dict().items()}
    output = torch.func.functional_call(ours, state, (images,))
    torch.testing.assert_close(output, other(images))
    output.sum().backward()
    assert state["network.0.weight"].grad is not None
    assert ours.network[0].weight.grad is None


@pytest.mark.filterwarnings("error::distgan.ops.library.PlainPyTorchWarning")
def test_it_comes_from_meta_as_any_module() -> None:
    plain = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    ours = spectral_norm(copy.deepcopy(plain))
    waiting = spectral_norm(copy.deepcopy(plain).to("meta")).to_empty(device="cpu")
    waiting.load_state_dict(ours.state_dict())
    assert torch.equal(waiting.eval()(torch.ones(1, 5)), ours.eval()(torch.ones(1, 5)))


@pytest.mark.parametrize("iterations", [0, -1, 1.5, "a"])
def test_iterations_that_are_none(iterations: object) -> None:
    with pytest.raises(ValueError, match=r"iterations is .*; it has to be a whole number from 1\."):
        spectral_norm(nn.Linear(2, 3), iterations=iterations)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_vectors_never_fall_below_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(spectral_norm(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))))
    u, v = ours[0].u.clone(), ours[0].v.clone()
    ours.to(dtype)
    assert ours[0].network[0].weight.dtype == dtype
    assert torch.equal(ours[0].u, u)
    assert torch.equal(ours[0].v, v)
    if dtype == torch.bfloat16:
        assert ours(torch.ones(2, 30, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("normalise", [True, False], ids=["compiled penalty", "compiled call"])
def test_it_compiles_without_a_break(normalise: bool) -> None:
    """What `normalised` returns is a pure function of its input, also under torch.func."""
    torch.manual_seed(0)
    ours = spectral_norm(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 1)).double())
    images = torch.randn(2, 1, 6, 6, dtype=torch.float64)

    def penalty(call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if not normalise:
            return call(images).square().sum()
        return torch.func.grad(lambda images: call(images).sum())(images).square().sum()

    gradients = []
    for function in (penalty, torch.compile(penalty, fullgraph=True, backend="aot_eager")):
        ours.zero_grad()
        value = function(ours.normalised(iterate=False), images)
        value.backward()
        gradients.append(ours.network[0].weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), r"The network has no layer to normalise .*; use it as it is\."),
        (
            lambda: nn.Sequential(nn.ReLU(), parametrizations.spectral_norm(nn.Linear(2, 3))),
            r"The weight of 1 is parametrised already; pass a plain network, and a state of .* to load_torch_state_dict\.",
        ),
        (lambda: parametrizations.weight_norm(nn.Linear(2, 3)), r"The weight of the network is parametrised already; .*"),
        (lambda: nn.Sequential(nn.ReLU(), spectral_norm(nn.Linear(2, 3))), r"1 is spectrally normalised already; pass the plain network\."),
    ],
)
def test_a_network_that_cannot_be_normalised(network: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^{sentence}$"):
        spectral_norm(network())
