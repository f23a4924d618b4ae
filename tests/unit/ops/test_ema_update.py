"""The operator's compiled forms against the same average in float64."""

import pytest
import torch

from distgan.ops import ema_update

SHAPES = [(1,), (7,), (64, 3, 3, 3), (8192,), (8193,), (3, 5, 1, 11), (0,), (20000,)]


def pair(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(shape, generator=generator) for shape in SHAPES * 2]
    return draw[: len(SHAPES)], [tensor.to(dtype) for tensor in draw[len(SHAPES) :]]


def assert_blended(after, before, weights, decay):
    for mean, old, weight in zip(after, before, weights, strict=True):
        expected = decay * old.double() + (1 - decay) * weight.double()
        torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_is_the_average_in_float64(ops, dtype, decay):
    average, weights = pair(dtype=dtype)
    before = [tensor.clone() for tensor in average]
    ops.ema_update(average, weights, decay)
    assert_blended(average, before, weights, decay)


def test_both_dtypes_and_unaligned_views_in_one_call(ops):
    average, weights = pair()
    average = [torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:] for tensor in average]  # off by one element
    weights = [weight.flatten().to(torch.bfloat16 if number % 2 else torch.float32) for number, weight in enumerate(weights)]
    before = [tensor.clone() for tensor in average]
    ops.ema_update(average, weights, 0.9)
    assert_blended(average, before, weights, 0.9)


def test_layouts_that_are_dense_are_taken_as_they_lie(ops):
    average = [torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last), torch.randn(5, 7).T]
    weights = [torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last), torch.randn(5, 7).T]
    before = [tensor.clone() for tensor in average]
    ops.ema_update(average, weights, 0.9)
    assert_blended(average, before, weights, 0.9)


def test_more_tensors_than_one_launch_takes(ops):
    average, weights = [torch.zeros(3) for _ in range(3000)], [torch.full((3,), float(number)) for number in range(3000)]
    ops.ema_update(average, weights, 0.75)
    assert_blended(average, [torch.zeros(3)] * 3000, weights, 0.75)


@pytest.mark.parametrize(
    ("average", "weights", "decay", "sentence"),
    [
        ([torch.zeros(3)], [], 0.5, "average has 1 tensors and weights 0; pass as many of each."),
        ([torch.zeros(3)], [torch.zeros(3)], 1.5, "decay is 1.5, but it is the share that the average keeps, from 0 to 1."),
        ([torch.zeros(3)], [torch.zeros(3)], float("nan"), "decay is nan"),
        ([torch.zeros(3).half()], [torch.zeros(3)], 0.5, r"average\[0\] is float16, but it has to be float32."),
        ([torch.zeros(3)], [torch.zeros(3).int()], 0.5, r"weights\[0\] is int32, but this operator takes float32 or bfloat16."),
        ([torch.zeros(3)], [torch.zeros(4)], 0.5, r"average\[0\] is \[3\] and weights\[0\] is \[4\]; they need one shape"),
        (
            [torch.zeros(6)[::2]],
            [torch.zeros(6)[::2]],
            0.5,
            r"average\[0\] and weights\[0\] lie differently in memory, or with gaps; pass both contiguous.",
        ),
        ([torch.zeros(2, 3).T], [torch.zeros(3, 2)], 0.5, "lie differently in memory"),
    ],
)
def test_bad_input_is_a_sentence(ops, average, weights, decay, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        ops.ema_update(average, weights, decay)


def test_the_public_function_takes_parameters_and_float64():
    for dtype in (torch.float32, torch.float64):
        average, weights = [torch.nn.Parameter(torch.ones(5, dtype=dtype))], [torch.nn.Parameter(torch.zeros(5, dtype=dtype))]
        ema_update(average, weights, 0.25)
        torch.testing.assert_close(average[0].detach(), torch.full((5,), 0.25, dtype=dtype))
    ema_update([], [], 0.5)


def test_opcheck():
    average, weights = pair()
    torch.library.opcheck(torch.ops.distgan.ema_update.default, (average, weights, 0.9))


def test_compiles_without_a_graph_break():
    average, weights = pair()
    before = [tensor.clone() for tensor in average]
    torch.compile(lambda: ema_update(average, weights, 0.9), fullgraph=True, backend="aot_eager")()
    assert_blended(average, before, weights, 0.9)
