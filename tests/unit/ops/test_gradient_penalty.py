"""The penalty and both of its derivatives, in every compiled form, against autograd of the reference twin in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distgan.ops import gradient_penalty, library
from distgan.ops.gradient_penalty import gradient_penalty_reference
from tests.unit.ops.implementations import emulator, operators

# Small samples, which a warp takes; samples for one block, with a rest; for several blocks; and what has no elements.
SHAPES = [(1,), (5,), (3, 2, 5, 7), (1, 1), (300, 3), (2, 3, 13, 17), (3, 1024), (2, 3, 31, 33), (1, 5003), (4, 0), (0, 3), (0,)]
WEIGHT, UPSTREAM = 3.7, -1.3


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gradients and directions; they point the same way, so that their products do not cancel, whatever the order of their sum."""
    gradients = draw(shape, seed)
    return gradients, gradients + draw(shape, 1000 + seed)


def expected_results(gradients: Tensor, directions: Tensor, center: float, weight: float = WEIGHT) -> dict[str, Tensor]:
    """Everything that the three operators compute, by autograd of the twin in float64."""
    gradients, directions = gradients.detach().double().requires_grad_(), directions.double()
    upstream = torch.tensor(UPSTREAM, dtype=torch.float64, requires_grad=True)
    penalty, norms = gradient_penalty_reference(gradients, center, weight)
    (slope,) = torch.autograd.grad(penalty, gradients, upstream, create_graph=True)
    upstream_result, second = torch.autograd.grad(slope, (upstream, gradients), directions)
    return {"penalty": penalty.detach(), "norms": norms, "slope": slope.detach(), "upstream": upstream_result, "second": second}


def actual_results(ops: Any, gradients: Tensor, directions: Tensor, center: float, weight: float = WEIGHT) -> dict[str, Tensor]:
    upstream = torch.tensor(UPSTREAM)
    penalty, norms = ops.gradient_penalty(gradients, center, weight)
    slope = ops.gradient_penalty_backward(upstream, gradients, norms, center, weight)
    upstream_result, second = ops.gradient_penalty_backward_backward(upstream, gradients, norms, directions, center, weight)
    return {"penalty": penalty, "norms": norms, "slope": slope, "upstream": upstream_result, "second": second}


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-6) -> None:
    """Equal up to `tolerance` of the largest element; results in bf16 up to their own rounding."""
    for name, value in expected.items():
        largest = value.abs().max().item() if value.numel() and value.isfinite().all() else 0.0
        allowed = max(tolerance, 2**-8 if actual[name].dtype == torch.bfloat16 else 0.0)
        torch.testing.assert_close(
            actual[name].double(), value, rtol=allowed, atol=allowed * largest, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_penalty_and_derivatives_are_those_of_float64(ops, center, dtype):
    for number, shape in enumerate(SHAPES):
        gradients, directions = (tensor.to(dtype) for tensor in draw_pair(shape, number))
        actual = actual_results(ops, gradients, directions, center)
        assert {name: value.dtype for name, value in actual.items()} == {
            "penalty": torch.float32, "norms": torch.float32, "slope": dtype, "upstream": torch.float32, "second": dtype,
        }  # fmt: skip
        assert_near(actual, expected_results(gradients, directions, center))


def test_the_mean_of_no_samples_is_nan_and_an_empty_sample_has_norm_0(ops):
    assert ops.gradient_penalty(torch.zeros(0, 3), 1.0, 2.0)[0].isnan()
    penalty, norms = ops.gradient_penalty(torch.zeros(2, 0), 3.0, 2.0)
    assert (penalty.item(), norms.tolist()) == (18.0, [0.0, 0.0])


def test_long_stretches_and_warps_with_many_samples(ops):
    for shape in [(2, 530_001), (8_300, 2)]:
        gradients = draw(shape)
        penalty, norms = ops.gradient_penalty(gradients, 1.0, WEIGHT)
        expected, expected_norms = gradient_penalty_reference(gradients.double(), 1.0, WEIGHT)
        assert_near({"penalty": penalty, "norms": norms}, {"penalty": expected, "norms": expected_norms})


@pytest.mark.parametrize("center", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_keeps_accuracy_for_tiny_and_huge_entries(ops, scale, center):
    gradients, directions = draw_pair((3, 2100))
    gradients *= scale
    assert_near(actual_results(ops, gradients, directions, center), expected_results(gradients, directions, center))


def test_samples_of_all_magnitudes_in_one_batch(ops):
    scales = torch.tensor([1e-15, 1e15, 1.0, 1e-3])
    gradients = draw((4, 1500)) * scales[:, None]
    norms = ops.gradient_penalty(gradients, 1.0, 1.0)[1]
    torch.testing.assert_close(norms.double(), gradients.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_zero_gradients_have_no_slope_and_no_nan(ops, center):
    gradients, directions = draw_pair((3, 700))
    gradients[1] = 0
    actual = actual_results(ops, gradients, directions, center)
    assert_near(actual, expected_results(gradients, directions, center))
    assert not actual["slope"][1].any()
    assert actual["second"][1].any() == (center == 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [40, 3000])
def test_nan_and_infinity_reach_norm_and_penalty_but_no_other_sample(ops, size, bad):
    gradients = draw((4, size))
    gradients[2, size - 1] = bad
    penalty, norms = ops.gradient_penalty(gradients, 1.0, WEIGHT)
    slope = ops.gradient_penalty_backward(torch.tensor(1.0), gradients, norms, 1.0, WEIGHT)
    expected, expected_norms = gradient_penalty_reference(gradients.double(), 1.0, WEIGHT)
    assert_near({"penalty": penalty, "norms": norms}, {"penalty": expected, "norms": expected_norms})
    assert norms[2].isnan() if math.isnan(bad) else norms[2] == math.inf
    assert not penalty.isfinite()
    assert not slope[2].isfinite().all()
    assert slope[[0, 1, 3]].isfinite().all()


def test_a_weight_that_is_nan_reaches_the_penalty_only(ops):
    penalty, norms = ops.gradient_penalty(draw((2, 30)), 1.0, math.nan)
    assert penalty.isnan()
    assert norms.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("view", "is_kept"),
    [
        (lambda t: t.to(memory_format=torch.channels_last), True),
        (lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), True),
        (lambda t: t.transpose(0, 1).contiguous().transpose(0, 1), False),
        (lambda t: t.repeat(1, 1, 1, 2)[..., ::2], False),
        (lambda t: t[:, :1].expand(t.shape), False),
        (lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape), True),
    ],
    ids=["channels-last", "any order in a sample", "samples inside", "with gaps", "one for all", "off by one element"],
)
def test_takes_any_memory_layout(ops, view, is_kept, dtype):
    gradients, directions = (tensor.to(dtype) for tensor in draw_pair((3, 4, 12, 13)))
    strides = view(gradients).stride() if is_kept else gradients.stride()
    for of_gradients, of_directions in ((view(gradients), directions), (view(gradients), view(directions))):
        actual = actual_results(ops, of_gradients, of_directions, 1.0)
        assert_near(actual, expected_results(of_gradients, of_directions, 1.0))
        assert actual["slope"].stride() == actual["second"].stride() == strides


def test_alignment_changes_no_bit(ops):
    gradients = draw((3, 1400))
    shifted = torch.cat([torch.zeros(1), gradients.flatten()])[1:].view(3, 1400)
    for aligned, unaligned in zip(
        actual_results(ops, gradients, gradients, 1.0).values(), actual_results(ops, shifted, shifted, 1.0).values(), strict=True
    ):
        assert torch.equal(aligned, unaligned)


def test_the_order_of_blocks_and_threads_changes_no_bit():
    for shape in [(6, 3000), (700, 5)]:
        results = []
        for implementation in ("emulator", "emulator_reversed"):
            with operators(implementation) as ops:
                results.append(actual_results(ops, *draw_pair(shape), 1.0))
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    try:
        for shape in [(2, 2_000_003), (64, 12_289), (5000, 50)]:
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(actual_results(torch.ops.distgan, *draw_pair(shape), 1.0))
            for other in results[1:]:
                assert all(torch.equal(results[0][name], other[name]) for name in other)
            assert_near(results[0], expected_results(*draw_pair(shape), 1.0))
    finally:
        torch.set_num_threads(before)


def test_the_penalty_is_one_launch_and_so_is_its_derivative():
    with operators("emulator") as ops:
        launches = []
        for call in (
            lambda: ops.gradient_penalty(draw((6, 3000)), 1.0, 1.0),
            lambda: ops.gradient_penalty_backward(torch.tensor(1.0), draw((6, 3000)), torch.ones(6), 1.0, 1.0),
            lambda: ops.gradient_penalty_backward_backward(torch.tensor(1.0), draw((6, 3000)), torch.ones(6), draw((6, 3000)), 1.0, 1.0),
        ):
            emulator().reset()
            call()
            launches.append(emulator().counters()["launches"])
    assert launches == [1, 1, 2]


UPSTREAM_TENSOR, NORMS = torch.tensor(1.0), torch.ones(2)


@pytest.mark.parametrize(
    ("name", "tensors", "sentence"),
    [
        ("gradient_penalty", [torch.tensor(1.0)], "gradients has no dimension; dimension 0 has to count the samples."),
        ("gradient_penalty", [torch.zeros(2, 3).double()], "gradients is float64, but this operator takes float32 or bfloat16."),
        ("gradient_penalty", [torch.zeros(1).expand(2**31)], "gradients has 2147483648 elements, but .* at most 2147483647; split it."),
        ("gradient_penalty_backward", [torch.ones(1), torch.zeros(2, 3), NORMS], r"upstream is \[1\], but .* a scalar."),
        ("gradient_penalty_backward", [UPSTREAM_TENSOR.half(), torch.zeros(2, 3), NORMS], "upstream is float16, but .* float32."),
        ("gradient_penalty_backward", [UPSTREAM_TENSOR, torch.zeros(3, 3), NORMS], r"norms is \[2\], .* 3 samples; it has to be \[3\]."),
        ("gradient_penalty_backward", [UPSTREAM_TENSOR, torch.zeros(2, 3), NORMS.double()], "norms is float64, but .* float32."),
        (
            "gradient_penalty_backward_backward",
            [UPSTREAM_TENSOR, torch.zeros(2, 3), NORMS, torch.zeros(2, 4)],
            r"directions is \[2, 4\] and gradients is \[2, 3\]; they need one shape.",
        ),
        (
            "gradient_penalty_backward_backward",
            [UPSTREAM_TENSOR, torch.zeros(2, 3), NORMS, torch.zeros(2, 3).bfloat16()],
            "directions is bfloat16 and gradients is float32; they need one dtype.",
        ),
    ],
)
def test_bad_input_is_a_sentence(ops, name, tensors, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        getattr(ops, name)(*tensors, 1.0, 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_devices_are_a_sentence():
    with pytest.raises(RuntimeError, match="norms and gradients are on different devices; move them to one"):
        torch.ops.distgan.gradient_penalty_backward(UPSTREAM_TENSOR.cuda(), torch.zeros(2, 3).cuda(), NORMS, 1.0, 1.0)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_the_twin_passes_gradcheck_of_both_orders(center):
    gradients = draw((4, 2, 3, 3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gradient_penalty_reference(g, center, 1.7)[0], gradients)
    assert torch.autograd.gradgradcheck(lambda g: gradient_penalty_reference(g, center, 1.7)[0], gradients)


def twice(gradients: Tensor, center: float, penalise: Any = gradient_penalty) -> tuple[Tensor, ...]:
    """Penalty, norms, the first and a second derivative, by autograd."""
    penalty, norms = penalise(gradients, center, WEIGHT)
    (slope,) = torch.autograd.grad(penalty, gradients, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), gradients)
    return penalty, norms, slope, second


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_autograd_of_both_orders_through_the_public_function(center):
    gradients = draw((3, 2, 8, 8)).requires_grad_()
    actual = twice(gradients, center)
    expected = twice(gradients.detach().double().requires_grad_(), center)
    assert_near(dict(enumerate(actual)), dict(enumerate(expected)), 5e-6)  # type: ignore[arg-type]


def test_norms_are_not_differentiable():
    for penalise in (gradient_penalty, gradient_penalty_reference):
        assert not penalise(torch.ones(2, 3, requires_grad=True), 1.0, 1.0)[1].requires_grad


def test_a_third_derivative_is_a_sentence():
    gradients = draw((2, 3)).requires_grad_()
    (slope,) = torch.autograd.grad(gradient_penalty(gradients, 1.0, 1.0)[0], gradients, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), gradients, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated twice, not three times; use gradient_penalty_reference"):
        second.sum().backward()


def test_float64_is_served_by_the_twin():
    gradients = draw((2, 3)).double()
    penalty, norms = gradient_penalty(gradients, 1.0, 1.0)
    assert penalty.dtype == norms.dtype == torch.float64


def penalty_gradients(discriminator: nn.Module, images: Tensor, center: float) -> list[Tensor]:
    """In the parameters: what training uses."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    gradient_penalty(gradients, center, 10.0)[0].backward()
    collected = [parameter.grad for parameter in discriminator.parameters() if parameter.grad is not None]
    discriminator.zero_grad()
    return collected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_a_discriminators_penalty_has_the_gradient_of_plain_pytorch(center, memory_format):
    torch.manual_seed(0)
    discriminator = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 8, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(128, 1)
    ).to(memory_format=memory_format)
    images = draw((4, 3, 16, 16)).to(memory_format=memory_format)
    compiled = penalty_gradients(discriminator, images, center)
    with library.reference_twins():
        plain = penalty_gradients(discriminator, images, center)
    assert len(compiled) == 5  # all but the last bias, which no input gradient depends on
    for actual, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_opcheck():
    gradients, upstream = draw((3, 2, 5, 5)).requires_grad_(), torch.tensor(1.3, requires_grad=True)
    for layout in (gradients, gradients.detach().to(memory_format=torch.channels_last).requires_grad_()):
        torch.library.opcheck(torch.ops.distgan.gradient_penalty.default, (layout, 1.0, 2.0))
        norms = gradient_penalty(layout, 1.0, 2.0)[1]
        torch.library.opcheck(torch.ops.distgan.gradient_penalty_backward.default, (upstream, layout, norms, 1.0, 2.0))
        arguments = (upstream.detach(), layout.detach(), norms, layout.detach() + 1, 1.0, 2.0)
        torch.library.opcheck(torch.ops.distgan.gradient_penalty_backward_backward.default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    torch.compiler.reset()
    gradients = draw((3, 2, 8, 8)).requires_grad_()
    penalise = torch.compile(lambda g: gradient_penalty(g * 2, 1.0, WEIGHT), fullgraph=True, backend=backend)
    actual, expected = penalise(gradients), gradient_penalty(gradients * 2, 1.0, WEIGHT)
    torch.testing.assert_close(actual, expected)
    slopes = [torch.autograd.grad(penalty, gradients)[0] for penalty, _ in (actual, expected)]
    torch.testing.assert_close(*slopes)
