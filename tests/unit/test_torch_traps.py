"""What torch does that distgan steps around. A failure here means that torch has changed: the message says what to reconsider.

Nothing of distgan is tested.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from distgan.distributed import World
from tests.ranks import run_ranks
from tests.training import relative_error

RANKS = 2


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _network(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """[N, 4] -> logits [N, 1], float64."""
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)).double()


def _samples() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64)


def _penalty(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """R1 by double backward."""
    x = x.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    return gradients.square().flatten(1).sum(1).mean()


def _gradient(network: nn.Module, scalar: Tensor) -> Tensor:
    """In all parameters, in one vector."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(scalar, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, or what it says when it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return str(error)


# torch.compile


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_a_compiled_network_has_no_double_backward() -> None:
    """So a compiled penalty is differentiated inside the compiled function, by torch.func."""
    network = _network()
    penalty = _penalty(_compiled(network), _samples())
    outcome = _outcome(penalty.backward)
    assert "does not currently support double backward" in outcome, "It has now: exact_penalty can compile the network alone."


@pytest.mark.parametrize("settings", [{}, {"trace_autograd_ops": True}], ids=str)
def test_autograd_grad_is_not_compiled(settings: dict[str, Any]) -> None:
    """So a compiled penalty calls torch.func.grad. The setting compiles some uses of autograd.grad, a penalty is none of them."""
    if any(not hasattr(torch._dynamo.config, name) for name in settings):
        pytest.skip("this torch has no such setting")
    network = _network()
    with torch._dynamo.config.patch(settings):
        outcome = _outcome(_compiled(lambda x: _penalty(network, x)), _samples())
    assert "requires_grad_()" in outcome or "torch.autograd.grad" in outcome, "It is now: exact_penalty could be compiled as it is."


@pytest.mark.parametrize("formulation", ["double_backward", "forward_over_reverse"])
def test_torch_func_inside_a_compiled_function_is_exact(formulation: str) -> None:
    """Both formulations: forward-over-reverse for layers without double backward, double backward for the least work."""
    network, x = _network(), _samples()

    def compilable_penalty(x: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            return network(x).sum()

        gradients = torch.func.grad(total)(x)
        penalty = gradients.square().sum(1).mean()
        if formulation == "double_backward":
            return penalty
        direction = (2 / len(x) * gradients).detach()
        return torch.func.jvp(total, (x,), (direction,))[1]

    error = relative_error(_gradient(network, _compiled(compilable_penalty)(x)), _gradient(network, _penalty(network, x)))
    assert error < 1e-12, "A compiled penalty of torch.func is no longer exact: do not compile penalties with this torch."


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0] * ctx.saved_tensors[0]


def test_compiled_func_grad_over_an_autograd_function_is_half_the_gradient() -> None:
    """pytorch#193279: what the Function saved is taken as constant. So no autograd.Function of ours runs inside a compiled
    penalty: `split_convolutions` steps aside, spectral norm is applied outside.
    """
    x = torch.tensor([3.0, -1.0], dtype=torch.float64)
    w = torch.tensor([1.5, 2.0], dtype=torch.float64, requires_grad=True)

    def slope(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.grad(lambda x: Square.apply(w * x).sum())(x).sum()

    (eager,) = torch.autograd.grad(slope(x, w), w)
    torch.testing.assert_close(eager, 4 * w.detach() * x)
    (compiled,) = torch.autograd.grad(_compiled(slope)(x, w), w)
    assert torch.equal(compiled, eager / 2), "pytorch#193279 has changed: see whether Functions may be inside compiled penalties."


@torch.library.custom_op("distgan_traps::square", mutates_args=())
def _square_operator(x: Tensor) -> Tensor:
    return x * x


_square_operator.register_fake(torch.empty_like)
_square_operator.register_autograd(
    lambda ctx, gradient: 2 * ctx.saved_tensors[0] * gradient,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_operator_with_register_autograd_raises_under_func_grad(compiled: bool) -> None:
    """pytorch#170834. So our operators stay outside of what torch.func differentiates."""
    gradient = torch.func.grad(lambda x: _square_operator(x).sum())
    outcome = _outcome(_compiled(gradient) if compiled else gradient, torch.ones(3))
    assert "setup_context" in str(outcome), "pytorch#170834 is mended: our operators may be inside func.grad."


def test_compiling_in_place_keeps_the_names() -> None:
    """So engines compile by `module.compile()`: checkpoints hold the network's own names."""
    module = nn.Linear(2, 2)
    names = list(module.state_dict())
    compiled = torch.compile(module)
    assert isinstance(compiled, nn.Module)
    assert list(compiled.state_dict()) == [f"_orig_mod.{name}" for name in names], "torch.compile(module) keeps names now."
    module.compile(backend="aot_eager")
    assert list(module.state_dict()) == names, "Module.compile() renames the parameters: checkpoints would change."


# Derivatives


@pytest.mark.parametrize("activation", [F.relu, F.leaky_relu, F.relu6, F.hardtanh, torch.abs, lambda x: F.max_pool1d(x, 2)])
def test_the_second_derivative_of_a_piecewise_linear_function_is_a_tensor_of_zeros(activation: Callable[[Tensor], Tensor]) -> None:
    """Whole convolution backwards run on these zeros; `split_convolutions` and `PropagateZeros` exist to spare them."""
    x = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation(w * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x, allow_unused=True)
    assert second is not None, "torch knows that this second derivative is zero: distgan.ops.piecewise_linear is no longer needed."
    assert (second == 0).all()


def test_a_function_is_not_told_which_gradients_are_wanted() -> None:
    """So `conv2d` asks the engine which of its weights a backward in progress is about."""
    asked = []

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
            answers = [torch._C._will_engine_execute_node(node) for node, _ in ctx.next_functions]
            asked.append((ctx.needs_input_grad, answers))
            return gradients[0] * ctx.saved_tensors[1], gradients[0] * ctx.saved_tensors[0]

    x, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    torch.autograd.grad(Product.apply(x * 1, w * 1).sum(), x)
    ((needs_input_grad, answers),) = asked
    assert needs_input_grad == (True, True), "needs_input_grad knows what the backward is about: conv2d can do without _needed()."
    assert answers == [True, False], "The engine no longer tells what it will run: conv2d computes weight gradients in vain."


@pytest.mark.parametrize("formulation", ["double backward", "forward mode"])
def test_fused_attention_has_neither_double_backward_nor_forward_mode(formulation: str) -> None:
    """pytorch#116350. So a discriminator with attention and a penalty needs the composite kernel, and would not get it by itself."""
    queries = torch.randn(1, 2, 8, 4, dtype=torch.float64)

    def attention(queries: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(queries, queries, queries)

    def differentiate() -> None:
        if formulation == "double backward":
            _penalty(attention, queries).backward()
        else:
            torch.func.jvp(attention, (queries,), (queries,))

    with sdpa_kernel(SDPBackend.MATH):
        differentiate()
    # By default the CPU takes its flash kernel.
    assert "flash_attention" in str(_outcome(differentiate)), "It has now: discriminators with a penalty can use fused attention."


def test_finite_differences_are_useless_on_leaky_relu() -> None:
    """So gradients are compared with other formulations in float64, and gradcheck sees smooth activations only."""
    errors = {}
    for activation in (nn.LeakyReLU, nn.Tanh):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 1)).double()
        x, weight, step = torch.randn(64, 4, dtype=torch.float64), network.get_parameter("0.weight"), 1e-3
        exact = torch.autograd.grad(_penalty(network, x), weight)[0]
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * exact / exact.norm()
            values.append(_penalty(network, x).item())
            with torch.no_grad():
                weight -= sign * step * exact / exact.norm()
        errors[activation] = abs((values[0] - values[1]) / (2 * step) / exact.norm().item() - 1)
    assert errors[nn.Tanh] < 1e-4
    assert errors[nn.LeakyReLU] > 0.1, f"{errors}: they see no kink with this seed; take another."


def test_a_penalty_in_bf16_is_off_by_percents() -> None:
    """So penalties are computed in fp32, whatever the rest is computed in."""
    network, x = _network(nn.SiLU), _samples()
    reference = _gradient(network, _penalty(network, x))

    def error(dtype: torch.dtype) -> float:
        cast = copy.deepcopy(network).to(dtype)
        return relative_error(_gradient(cast, _penalty(cast, x.to(dtype))), reference)

    assert error(torch.float32) < 1e-5
    assert error(torch.bfloat16) > 3e-3, "A penalty in bf16 is precise enough: it can be computed under autocast."


# Random numbers


def test_the_cpu_generator_uses_32_bits_of_its_seed() -> None:
    """So distgan.randomness draws with NumPy's Philox, keyed with all of (seed, stream, index)."""
    low, high = (torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7 + 2**32))
    assert torch.equal(low, high), "torch's CPU generator uses all of its seed now: it would do for distgan.randomness."


# Ranks. What the tests below look at happens in one process group of two.


class BothNetworks(nn.Module):
    """A phase of a GAN that trains `own`; it registers the other network too, or only holds it."""

    other: nn.Module

    def __init__(self, own: nn.Module, other: nn.Module, trains_discriminator: bool, registers_both: bool) -> None:
        super().__init__()
        self.own = own
        self.trains_discriminator = trains_discriminator
        if registers_both:
            self.other = other
        else:
            object.__setattr__(self, "other", other)

    def forward(self, real: Tensor, latents: Tensor) -> Tensor:
        if self.trains_discriminator:
            return F.softplus(-self.own(real)).mean() + F.softplus(self.own(self.other(latents).detach())).mean()
        return F.softplus(-self.other(self.own(latents))).mean()


def _trained(world: World, wrap: Callable[[nn.Module], Callable[..., Tensor]] | None, registers_both: bool = False) -> Tensor:
    """Both networks after three steps, on one rank with the joined batch (`wrap` None) or on its slice."""
    torch.manual_seed(0)
    discriminator = _network()
    generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    phases = [BothNetworks(discriminator, generator, True, registers_both), BothNetworks(generator, discriminator, False, registers_both)]
    runs = [wrap(phase) if wrap else phase for phase in phases]
    for _ in range(3):
        real, latents = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
        if wrap:
            real, latents = real.chunk(world.size)[world.rank], latents.chunk(world.size)[world.rank]
        for run, trained, frozen in zip(runs, (discriminator, generator), (generator, discriminator), strict=True):
            frozen.requires_grad_(False)
            run(real, latents).backward()
            frozen.requires_grad_(True)
            with torch.no_grad():
                for parameter in trained.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
    return torch.cat([parameter.detach().flatten() for network in (discriminator, generator) for parameter in network.parameters()])


class Parts(nn.Module):
    """A discriminator's penalty and loss, each with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = _network()

    def forward(self, part: str, x: Tensor) -> Tensor:
        return _penalty(self.network, x) if part == "penalty" else F.softplus(self.network(x)).mean()


def _parts(world: World, parts: list[str], distributed: bool) -> Tensor:
    """The gradient of the sum of the parts, of which all but the last run under no_sync; then another forward."""
    phase = Parts()
    ddp = DistributedDataParallel(phase) if distributed else None
    run, x = ddp or phase, _samples()
    if distributed:
        x = x.chunk(world.size)[world.rank]
    for part in parts:
        with nullcontext() if ddp is None or part == parts[-1] else ddp.no_sync():
            run(part, x).backward()
    gradients = [parameter.new_zeros(parameter.shape) if parameter.grad is None else parameter.grad for parameter in phase.parameters()]
    found = torch.cat([gradient.flatten() for gradient in gradients])
    run("loss", x)
    return found


def _two_forwards(layer: nn.Module, distributed: bool) -> str:
    """One backward through two forwards of a layer with buffers, twice."""
    network = nn.Sequential(layer, nn.Linear(8, 1)).double()
    run = DistributedDataParallel(network) if distributed else network
    for _ in range(2):
        (run(_samples()).mean() - run(_samples()).mean()).backward()
    return "ran"


def _on_a_rank(world: World) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DistributedDataParallel(nn.Linear(2, 2), broadcast_buffers=False)
    return {
        "one rank": _trained(world, None),
        "registers its own": _trained(world, DistributedDataParallel),
        "registers both": _trained(world, DistributedDataParallel, True),
        "parts of one rank": _parts(world, ["penalty", "loss"], False),
        "penalty, loss": _parts(world, ["penalty", "loss"], True),
        "loss, penalty": _outcome(_parts, world, ["loss", "penalty"], True),
        "penalty": _outcome(_parts, world, ["penalty"], True),
        "broadcast_buffers": [str(warning.message) for warning in caught],
        "spectral norm twice": _outcome(_two_forwards, nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), True),
        "old spectral norm twice": _outcome(_two_forwards, nn.utils.spectral_norm(nn.Linear(4, 8)), True),
        "batch norm twice": _outcome(_two_forwards, nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), True),
        "SyncBatchNorm": _outcome(nn.SyncBatchNorm(3), torch.randn(4, 3)),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(RANKS, _on_a_rank)


def test_ddp_is_silently_wrong_if_a_phase_registers_both_networks(ranks: list[dict[str, Any]]) -> None:
    """Two wrappers then hook the same parameters. So a phase registers only what it trains."""
    for rank in ranks:
        assert relative_error(rank["registers its own"], rank["one rank"]) < 1e-12, "DDP no longer equals one rank: do not use this torch."
        wrong = relative_error(rank["registers both"], rank["one rank"])
        assert wrong > 1e-3, "DDP copes with parameters in two wrappers: phases could register both networks."


def test_ddp_is_exact_with_the_penalty_first_under_no_sync(ranks: list[dict[str, Any]]) -> None:
    """Ranks meet in the part that touches every parameter, and that runs last."""
    for rank in ranks:
        error = relative_error(rank["penalty, loss"], rank["parts of one rank"])
        assert error < 1e-12, "A penalty under no_sync before the loss is no longer exact: DdpEngine must order its parts otherwise."


@pytest.mark.parametrize("parts", ["loss, penalty", "penalty"])
def test_ddp_waits_for_parameters_that_a_penalty_does_not_reach(ranks: list[dict[str, Any]], parts: str) -> None:
    """pytorch#47562: the last bias drops out of an input gradient. The gradients are wrong, and the NEXT forward says so. So a
    penalty is never the last part.
    """
    for rank in ranks:
        assert "Expected to have finished reduction" in rank[parts], "DDP copes with a penalty alone: the order of parts is free."


def test_ddps_buffer_argument_has_a_new_name(ranks: list[dict[str, Any]]) -> None:
    """So DdpEngine takes the name that the signature has; torch 2.11 has only the old one."""
    if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel).parameters:
        pytest.skip("this torch has only the old name")
    for rank in ranks:
        assert any("forward_sync_buffers" in message for message in rank["broadcast_buffers"]), "The old name is in use again."


@pytest.mark.parametrize("layer", ["spectral norm twice", "old spectral norm twice", "batch norm twice"])
def test_two_forwards_before_one_backward_run_though_ddp_sends_buffers(ranks: list[dict[str, Any]], layer: str) -> None:
    """pytorch#175024 reports that the second forward overwrites what the first saved; it does not on gloo. DdpEngine sends no buffers."""
    assert [rank[layer] for rank in ranks] == ["ran"] * RANKS, "pytorch#175024 appears on CPUs too: buffers must not be sent."


def test_sync_batch_norm_has_no_cpu_path(ranks: list[dict[str, Any]]) -> None:
    """So distgan.models.layers has a batch norm of its own, whose ranks are tested on CPUs."""
    for rank in ranks:
        assert "expected input tensor to be on GPU" in str(rank["SyncBatchNorm"]), "SyncBatchNorm runs on CPUs: ours may not be needed."
