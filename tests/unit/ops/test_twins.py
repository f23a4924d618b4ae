"""The reference twins refuse what the compiled operators refuse, and in the same words: float64 always comes to them."""

import re
from collections.abc import Callable

import pytest
import torch

from distgan import ops
from distgan.ops import library
from tests.unit.ops.implementations import CSRC

ONES = torch.ones(2, 3, dtype=torch.float64)
U, V, SIGMA = ONES[:, 0].clone(), ONES[0].clone(), torch.ones(1, dtype=torch.float64)
IMAGES = torch.ones(4, 1, 2, 2, dtype=torch.float64)

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no weights": (lambda: ops.spectral_norm_power_iteration_([], U, V), "weights is empty; pass at least one weight."),
    "nothing to scale": (lambda: ops.spectral_norm_scale([], U, V, SIGMA), "weights is empty; pass at least one weight."),
    "a weight without dimensions": (lambda: ops.spectral_norm_power_iteration_([ONES.sum()], U, V), r"weights\[0\] has no dimension"),
    "a short u": (lambda: ops.spectral_norm_power_iteration_([ONES], U[:1], V), r"u is \[1\], but the weights have 2 rows in all"),
    "a long v": (lambda: ops.spectral_norm_scale([ONES], U, IMAGES.flatten(), SIGMA), r"v is \[16\], but the weights have 3 columns"),
    "negative iterations": (lambda: ops.spectral_norm_power_iteration_([ONES], U, V, -1), "iterations is -1, but it has to be 0"),
    "no eps": (lambda: ops.spectral_norm_power_iteration_([ONES], U, V, 1, 0.0), "eps is 0, but it has to be positive"),
    "a long sigma": (lambda: ops.spectral_norm_scale([ONES], U, V, torch.cat([SIGMA, SIGMA])), r"sigma is \[2\], but there are 1 weights"),
    "a decay above 1": (lambda: ops.ema_update([ONES], [ONES], 2), "decay is 2, but it is the share that the average keeps"),
    "fewer weights": (lambda: ops.ema_update([ONES], [], 0.5), "average has 1 tensors and weights 0; pass as many of each."),
    "no average": (lambda: ops.ema_update([], [ONES], 0.5), "average has 0 tensors and weights 1; pass as many of each."),
    "weights of another shape": (lambda: ops.ema_update([ONES], [ONES[:1]], 0.5), r"is \[2, 3\] and weights\[0\] is \[1, 3\]; they need"),
    "fewer fakes": (lambda: ops.gradient_penalty_interpolate(IMAGES, IMAGES[:1], 0, 0, "mixture"), "they need one shape"),
    "a negative offset": (lambda: ops.gradient_penalty_interpolate(IMAGES, IMAGES, 0, -1, "mixture"), "offset is -1, but it is the"),
    "real images of int64": (
        lambda: ops.gradient_penalty_interpolate(IMAGES.long(), IMAGES, 0, 0, "real"),
        "real is int64, but this operator takes uint8, float32 or bfloat16.",
    ),
    "weights of float16": (
        lambda: ops.spectral_norm_power_iteration_([ONES.half()], U, V),
        r"weights\[0\] is float16, but this operator takes float32 or bfloat16.",
    ),
    "a short-winded v": (lambda: ops.spectral_norm_power_iteration_([ONES], U, V.float()), "v is float32, but it has to be float64."),
    "another sigma": (lambda: ops.spectral_norm_scale([ONES], U, V, SIGMA.float()), "sigma is float32, but it has to be float64, as u is."),
    "weights as integers": (lambda: ops.spectral_norm_scale([ONES], U, V, SIGMA, torch.int32), "dtype is int32, but it has to be float32"),
    "a strided u": (
        lambda: ops.spectral_norm_power_iteration_([ONES], ONES.flatten()[::3], V),
        "u is written through and has to be contiguous; pass u.contiguous",
    ),
    "gradients of float16": (lambda: ops.gradient_penalty(IMAGES.half(), 1.0, 1.0), "gradients is float16, but this operator takes"),
    "no samples": (lambda: ops.gradient_penalty(ONES.sum(), 1.0, 1.0), "gradients has no dimension; dimension 0 has to count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_a_sentence(case: str) -> None:
    call, sentence = REFUSED[case]
    with pytest.raises(RuntimeError, match=sentence):
        call()


META = torch.ones(2, 3, device="meta")
MIXED: dict[str, tuple[Callable[[], object], str]] = {
    "weights": (
        lambda: ops.spectral_norm_power_iteration_([ONES.float(), META], U, V),
        r"weights\[1\] is on the device meta and weights\[0\] is",
    ),
    "sigma": (
        lambda: ops.spectral_norm_scale([ONES.float()], U, V, SIGMA.to("meta")),
        r"sigma is on the device meta and weights\[0\] is not",
    ),
    "average": (
        lambda: ops.ema_update([ONES.float()], [META], 0.5),
        r"weights\[0\] is on the device meta and average\[0\] is not; move them",
    ),
    "fake": (lambda: ops.gradient_penalty_interpolate(ONES.float(), META, 0, 0, "mixture"), "fake is on the device meta and real is not"),
}


@pytest.mark.parametrize("case", MIXED)
def test_a_tensor_on_meta_among_others_is_a_sentence(case: str) -> None:
    """For them the dispatcher calls the function that only knows shapes, which would return memory as it lies there."""
    call, sentence = MIXED[case]
    with pytest.raises(RuntimeError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ops.spectral_norm_power_iteration_([ONES, None], U, V), r"weights\[1\] is a NoneType, not a tensor\."),
        (lambda: ops.spectral_norm_scale([ONES], U, None, SIGMA), r"v is a NoneType, not a tensor\."),
        (lambda: ops.ema_update([ONES], ["weight"], 0.5), r"weights\[0\] is a str, not a tensor\."),
        (lambda: ops.gradient_penalty_interpolate(None, IMAGES, 0, 0, "real"), r"real is a NoneType, not a tensor\."),
    ],
)
def test_what_is_no_tensor_is_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        call()


def test_a_seed_beyond_64_bits_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"seed is 18446744073709551616; it has to be a 64-bit number"):
        ops.gradient_penalty_interpolate(IMAGES, IMAGES, 2**64, 0, "mixture")


def test_the_tuple_that_grad_returns_is_a_sentence() -> None:
    with pytest.raises(TypeError, match=r"gradients is a tuple, not a tensor; write `\(gradients,\) = torch.autograd.grad"):
        ops.gradient_penalty((IMAGES,), 1.0, 1.0)  # type: ignore[arg-type]


def test_the_table_of_operators_is_complete() -> None:
    """`python -m distgan.ops` lists by hand what registration.cpp defines."""
    defined = re.findall(r"\"(\w+)\(", (CSRC / "registration.cpp").read_text())
    assert set(defined) <= set(library.OPERATORS)
    assert len(defined) == 8
