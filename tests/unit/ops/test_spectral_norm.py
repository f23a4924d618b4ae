"""The compiled forms of spectral_norm_power_iteration_ and spectral_norm_scale against float64, and against torch's own."""

import math

import pytest
import torch
from torch.nn.utils import parametrizations

from distgan.ops import library, spectral_norm_power_iteration_, spectral_norm_scale
from distgan.ops.spectral_norm import EPS, spectral_norm_power_iteration_reference_, spectral_norm_scale_reference

SHAPES = {
    "convolutions": [(8, 3, 3, 3), (16, 8, 4, 4), (5, 7, 3), (4, 3, 2, 2, 2)],
    "narrow": [(1, 1), (1, 5), (7, 1), (7,), (3, 31), (9, 33), (100, 2)],
    "one row": [(1, 300), (1, 1024)],
    "wide": [(3, 2500), (2, 9001), (10, 8196)],
    "tall": [(700, 12)],
    "several blocks": [(70, 257), (40, 1024)],
    "empty": [(0,), (0, 4), (5, 0), (3, 2)],
}


def layers(shapes, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=generator) * scale).to(dtype) for shape in shapes]


def vectors(weights: list[torch.Tensor], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors for every layer, as one u and one v."""
    generator = torch.Generator().manual_seed(seed)

    def units(sizes: list[int]) -> torch.Tensor:
        return torch.cat([torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0) for size in sizes])

    return units([len(weight) for weight in weights]), units([math.prod(weight.shape[1:]) for weight in weights])


def odd_layouts() -> list[torch.Tensor]:
    """Weights as the framework hands them over, and some that it never would."""
    draw = torch.Generator().manual_seed(3)
    convolution = torch.randn(6, 5, 3, 3, generator=draw)
    return [
        convolution.to(memory_format=torch.channels_last),
        convolution.transpose(0, 1),  # a transposed convolution
        convolution.to(memory_format=torch.channels_last).transpose(0, 1),
        torch.randn(4, 3, 2, 3, 2, generator=draw).to(memory_format=torch.channels_last_3d),
        torch.randn(20, 30, generator=draw).T,
        torch.randn(6, 40, 4, generator=draw)[:, ::2, 1:3],
        torch.randn(6, 4, 5, 3, 2, generator=draw).permute(0, 3, 1, 4, 2),
        torch.randn(9, generator=draw).expand(4, 9),
        torch.randn(97, generator=draw)[1:].view(8, 12),  # off the alignment of four
    ]


def assert_iterated(ops, weights, iterations, tolerance=2e-6):
    u, v = vectors(weights)
    exact_u, exact_v = u.double(), v.double()
    exact = spectral_norm_power_iteration_reference_([weight.double() for weight in weights], exact_u, exact_v, iterations)
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, iterations, EPS)
    assert sigma.dtype == torch.float32
    # With iterations = 0, u^T W v is a sum whose terms cancel: an error is to be seen against |W|.
    sizes = torch.stack([weight.double().norm() for weight in weights]) if iterations == 0 else exact.abs()
    assert ((sigma.double() - exact).abs() <= tolerance * sizes.clamp_min(EPS)).all()
    torch.testing.assert_close(u.double(), exact_u, rtol=0, atol=tolerance)
    torch.testing.assert_close(v.double(), exact_v, rtol=0, atol=tolerance)


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_iterates_as_in_float64(ops, shapes, dtype, iterations):
    assert_iterated(ops, layers(shapes, dtype=dtype), iterations)


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_takes_any_strides(ops, dtype, iterations):
    weights = [weight.to(dtype) for weight in odd_layouts()]
    assert [weight.stride() for weight in weights[:5]] == [weight.stride() for weight in odd_layouts()[:5]]
    assert_iterated(ops, weights, iterations)


def test_takes_both_dtypes_in_one_call(ops):
    shapes = [(9, 33), (4, 3, 3, 3), (1, 7)]
    assert_iterated(
        ops, [weight for pair in zip(layers(shapes), layers(shapes, 5, dtype=torch.bfloat16), strict=True) for weight in pair], 2
    )


def test_more_layers_than_one_launch_takes(ops):
    # In some of so many layers v nearly vanishes under W, which magnifies the rounding.
    assert_iterated(ops, layers([(2, 3)] * 500), 1, tolerance=1e-4)


def test_iterations_zero_write_nothing(ops):
    weights = layers([(5, 7), (3, 400)])
    u, v = vectors(weights)
    before = u.clone(), v.clone()
    ops.spectral_norm_power_iteration_(weights, u, v, 0, EPS)
    assert torch.equal(u, before[0])
    assert torch.equal(v, before[1])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_huge_and_tiny_weights_keep_their_digits(ops, scale):
    weights = layers([(8, 3, 3, 3), (20, 300)], scale=scale)
    u, v = vectors(weights)
    exact_u, exact_v = u.double(), v.double()
    exact = spectral_norm_power_iteration_reference_([weight.double() for weight in weights], exact_u, exact_v, 2, 1e-30)
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, 2, 1e-30)
    torch.testing.assert_close(sigma.double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(u.double(), exact_u, rtol=0, atol=2e-6)


def test_converges_to_the_largest_singular_value(ops):
    weights = layers([(12, 9), (6, 2, 2, 2), (1, 9)])
    for weight in weights:
        weight[0] *= 5  # a gap between the first and the second, so that few iterations are enough
    u, v = vectors(weights)
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, 30, EPS)
    expected = torch.stack([torch.linalg.matrix_norm(weight.flatten(1).double(), 2) for weight in weights])
    torch.testing.assert_close(sigma.double(), expected, rtol=1e-5, atol=0)


def test_rank_one_is_exact_after_one_iteration(ops):
    left, right = torch.arange(1.0, 6), torch.arange(1.0, 8)
    weights = [torch.outer(left, right)]
    u, v = vectors(weights)
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, 1, EPS)
    torch.testing.assert_close(sigma, (left.norm() * right.norm()).reshape(1))
    torch.testing.assert_close(torch.outer(u, v) * sigma, weights[0])


def test_a_zero_matrix_keeps_its_vectors_and_stays_zero(ops):
    weights = [torch.zeros(4, 5), torch.ones(2, 3), torch.zeros(3, 300)]
    u, v = vectors(weights)
    before = u.clone(), v.clone()
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, 2, 1e-9)
    torch.testing.assert_close(sigma, torch.tensor([1e-9, math.sqrt(6), 1e-9]))
    for now, old, ends in ((u, before[0], (4, 6)), (v, before[1], (5, 8))):
        assert torch.equal(now[: ends[0]], old[: ends[0]])
        assert torch.equal(now[ends[1] :], old[ends[1] :])
    assert all(result.isfinite().all() for result in ops.spectral_norm_scale(weights, u, v, sigma, torch.float32))


@pytest.mark.parametrize("iterations", [0, 1])
def test_nan_is_seen_in_its_own_layer_alone(ops, iterations):
    weights = layers([(4, 5), (6, 7)])
    weights[0][2, 3] = float("nan")
    u, v = vectors(weights)
    sigma = ops.spectral_norm_power_iteration_(weights, u, v, iterations, EPS)
    assert sigma.isnan().tolist() == [True, False]
    if iterations:
        assert u[:4].isnan().all()
    assert u[4:].isfinite().all()
    assert v[5:].isfinite().all()


def test_the_same_bits_in_every_run_and_at_every_number_of_threads():
    weights = layers([(300, 500), (70, 2500), (8, 3, 3, 3), (512, 256, 1, 1)])
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 2, 1):
        torch.set_num_threads(threads)
        u, v = vectors(weights)
        sigma = spectral_norm_power_iteration_(weights, u, v, 5)
        results.append((sigma, u, v))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(results[0], other, strict=True))


def test_every_compiled_form_gives_torchs_own_update(ops):
    """torch's parametrisation starts from v, too: the same u, v and weight, not only the same limit."""
    module = parametrizations.spectral_norm(torch.nn.Conv2d(6, 9, 3, dtype=torch.float64))
    original, own = module.parametrizations.weight.original.detach(), module.parametrizations.weight[0]
    u, v = own._u.float(), own._v.float()
    expected = module.weight.detach()  # one power iteration, as the module is in training mode
    sigma = ops.spectral_norm_power_iteration_([original.float()], u, v, 1, EPS)
    (weight,) = ops.spectral_norm_scale([original.float()], u, v, sigma, torch.float32)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(u.double(), own._u, rtol=0, atol=1e-6)
    torch.testing.assert_close(v.double(), own._v, rtol=0, atol=1e-6)


def scaled(weights: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """u, v and sigma of these weights after two iterations, fp32."""
    u, v = (tensor.double() for tensor in vectors(weights))
    sigma = spectral_norm_power_iteration_reference_([weight.double() for weight in weights], u, v, 2)
    return u.float(), v.float(), sigma.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*SHAPES, "odd layouts"])
def test_scales_as_in_float64(ops, name, weight_dtype, dtype):
    weights = odd_layouts() if name == "odd layouts" else layers(SHAPES[name])
    weights = [weight.to(weight_dtype) for weight in weights]
    u, v, sigma = scaled(weights)
    results = ops.spectral_norm_scale(weights, u, v, sigma, dtype)
    for weight, result, norm in zip(weights, results, sigma, strict=True):
        assert result.dtype == dtype
        assert result.shape == weight.shape
        torch.testing.assert_close(
            result.double(), weight.double() / norm.double(), rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=1e-30
        )


@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*SHAPES, "odd layouts"])
def test_backward_is_autograds_in_float64(ops, name, weight_dtype, gradient_dtype):
    weights = odd_layouts() if name == "odd layouts" else layers(SHAPES[name])
    weights = [weight.to(weight_dtype) for weight in weights]
    u, v, sigma = scaled(weights)
    gradients = [gradient.to(gradient_dtype) for gradient in layers([weight.shape for weight in weights], seed=9)]
    exact_weights = [weight.double().requires_grad_() for weight in weights]
    outputs = spectral_norm_scale_reference(exact_weights, u.double(), v.double(), sigma.double(), torch.float64)
    expected = torch.autograd.grad(outputs, exact_weights, [gradient.double() for gradient in gradients])
    results = ops.spectral_norm_scale_backward(gradients, weights, u, v, sigma)
    for weight, gradient, norm, result, exact in zip(weights, gradients, sigma, results, expected, strict=True):
        assert result.dtype == weight.dtype
        assert result.shape == weight.shape
        size = (gradient.abs().amax() / norm).item() if exact.numel() else 0.0  # of the terms: their difference may be 0
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=size * (2e-6 if weight_dtype == torch.float32 else 2**-8))


def test_gradients_may_lie_otherwise_than_their_weights(ops):
    weights = odd_layouts()[:3]
    u, v, sigma = scaled(weights)
    gradients = [torch.randn(weight.shape) for weight in weights]
    strided = [gradient.mT.contiguous().mT for gradient in gradients]
    for one, other in zip(
        ops.spectral_norm_scale_backward(gradients, weights, u, v, sigma),
        ops.spectral_norm_scale_backward(strided, weights, u, v, sigma),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_the_twins_derivative_is_right():
    """gradcheck of the reference that everything above is held to: sigma moves with the weight, u and v do not."""
    weights = [weight.double().requires_grad_() for weight in layers([(4, 3, 2, 2), (5, 6), (1, 4)])]
    u, v = (tensor.double() for tensor in vectors(weights))
    spectral_norm_power_iteration_reference_(weights, u, v, 100)

    def normalised(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sigma = spectral_norm_power_iteration_reference_(tensors, u, v, 0)
        return tuple(spectral_norm_scale_reference(tensors, u, v, sigma, torch.float64))

    assert torch.autograd.gradcheck(normalised, weights)


def test_autograd_runs_through_the_operator_with_unused_outputs():
    weights = [weight.requires_grad_() for weight in layers([(4, 3), (5, 6), (2, 2)])]
    u, v, sigma = scaled([weight.detach() for weight in weights])
    used = spectral_norm_scale(weights, u, v, sigma)
    (used[0].square().sum() + used[2].sum()).backward()
    gradients = [weight.grad for weight in weights]
    exact = [weight.detach().double().requires_grad_() for weight in weights]
    outputs = spectral_norm_scale_reference(exact, u.double(), v.double(), sigma.double(), torch.float64)
    (outputs[0].square().sum() + outputs[2].sum()).backward()
    for number, (gradient, weight) in enumerate(zip(gradients, exact, strict=True)):
        expected = torch.zeros_like(weight) if number == 1 else weight.grad
        torch.testing.assert_close(torch.zeros(()) if gradient is None else gradient.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_second_derivative_is_refused_in_a_sentence():
    weights = [weight.requires_grad_() for weight in layers([(4, 3)])]
    u, v, sigma = scaled([weight.detach() for weight in weights])
    (scaled_weight,) = spectral_norm_scale(weights, u, v, sigma)
    (gradient,) = torch.autograd.grad(scaled_weight.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="spectral_norm_scale has no second derivative; normalise the weights outside"):
        gradient.sum().backward()


def test_opcheck():
    weights = [weight.requires_grad_() for weight in layers([(4, 3, 2, 2), (5, 6)])]
    u, v, sigma = scaled([weight.detach() for weight in weights])
    torch.library.opcheck(torch.ops.distgan.spectral_norm_scale.default, (weights, u, v, sigma, torch.float32))
    fixed = [weight.detach() for weight in weights]
    torch.library.opcheck(torch.ops.distgan.spectral_norm_power_iteration_.default, (fixed, u, v, 1, EPS))
    torch.library.opcheck(torch.ops.distgan.spectral_norm_scale_backward.default, (fixed, fixed, u, v, sigma))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    weights = [weight.requires_grad_() for weight in layers([(4, 3, 2, 2), (5, 6)])]
    eager, compiled = vectors(weights), vectors(weights)

    def loss(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        sigma = spectral_norm_power_iteration_(weights, u, v)
        return sum(weight.square().mean() * sigma.sum() for weight in spectral_norm_scale(weights, u, v, sigma))

    expected = torch.autograd.grad(loss(*eager), weights)
    results = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=backend)(*compiled), weights)
    for result, exact in zip(results, expected, strict=True):
        torch.testing.assert_close(result, exact, rtol=1e-5, atol=1e-7)
    assert torch.equal(eager[0], compiled[0])
    assert torch.equal(eager[1], compiled[1])


def test_the_public_functions_and_the_twins_agree():
    weights = layers([(4, 3, 2, 2), (5, 6)])
    results = []
    for serving in ("compiled", "twins"):
        u, v = vectors(weights)
        if serving == "twins":
            with library.reference_twins():
                sigma = spectral_norm_power_iteration_(weights, u, v, 3)
                results.append([sigma, u, v, *spectral_norm_scale(weights, u, v, sigma, torch.bfloat16)])
        else:
            sigma = spectral_norm_power_iteration_(weights, u, v, 3)
            results.append([sigma, u, v, *spectral_norm_scale(weights, u, v, sigma, torch.bfloat16)])
    for compiled, twin in zip(*results, strict=True):
        assert compiled.dtype == twin.dtype
        torch.testing.assert_close(compiled, twin)


W, U, V, S = torch.ones(2, 3), torch.ones(2), torch.ones(3), torch.ones(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], U, V, 1, EPS), "weights is empty; pass at least one weight."),
        (([W.half()], U, V, 1, EPS), r"weights\[0\] is float16, but this operator takes float32 or bfloat16."),
        (([W.double()], U, V, 1, EPS), r"weights\[0\] is float64, but"),
        (([W, torch.ones(())], U, V, 1, EPS), r"weights\[1\] has no dimension; a weight has at least one, its rows."),
        (([W], U.double(), V, 1, EPS), "u is float64, but it has to be float32."),
        (([W], U, V.bfloat16(), 1, EPS), "v is bfloat16, but it has to be float32."),
        (([W], torch.ones(3), V, 1, EPS), r"u is \[3\], but the weights have 2 rows in all; it has to be \[2\]."),
        (([W], U, torch.ones(1, 3), 1, EPS), r"v is \[1, 3\], but the weights have 3 columns in all; it has to be \[3\]."),
        (([W], torch.ones(4)[::2], V, 1, EPS), "u is written through and has to be contiguous"),
        (([W], U, V, -1, EPS), r"iterations is -1, but it has to be 0 \(only measure\) or more."),
        (([W], U, V, 1, 0.0), "eps is 0, but it has to be positive"),
        (([torch.ones(1).expand(2**16, 2**15)], U, V, 1, EPS), r"weights\[0\] has 2147483648 elements, but one tensor may have at most"),
    ],
)
def test_bad_input_to_the_iteration_is_a_sentence(ops, arguments, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        ops.spectral_norm_power_iteration_(*arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], U, V, S, torch.float32), "weights is empty; pass at least one weight."),
        (([W], U, V, torch.ones(2), torch.float32), r"sigma is \[2\], but there are 1 weights; it has to be \[1\]."),
        (([W], U, V, S.double(), torch.float32), "sigma is float64, but it has to be float32."),
        (([W], U, V, S, torch.float16), "dtype is float16, but it has to be float32 or bfloat16."),
        (([W.int()], U, V, S, torch.float32), r"weights\[0\] is int32, but this operator takes"),
    ],
)
def test_bad_input_to_the_scaling_is_a_sentence(ops, arguments, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        ops.spectral_norm_scale(*arguments)


@pytest.mark.parametrize(
    ("gradients", "sentence"),
    [
        ([], "gradients has 0 tensors and weights 1; pass as many of each."),
        ([torch.ones(3, 2)], r"gradients\[0\] is \[3, 2\], but weights\[0\] is \[2, 3\]; they need one shape."),
        ([torch.ones(2, 3).half()], r"gradients\[0\] is float16, but this operator takes"),
    ],
)
def test_bad_input_to_the_backward_is_a_sentence(ops, gradients, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        ops.spectral_norm_scale_backward(gradients, [W], U, V, S)
