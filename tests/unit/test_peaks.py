"""The table of peaks: what a device's name and torch's settings choose, and that its numbers fit together."""

from collections.abc import Callable, Iterator

import pytest
import torch

from distgan.metrics.peaks import PEAKS, peak_flops_per_second

CUDA = torch.device("cuda", 0)


@pytest.fixture
def tf32() -> Iterator[Callable[[bool, bool], None]]:
    """Sets whether torch may use it for convolutions and for matrix products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    def allow(convolutions: bool, products: bool) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products

    yield allow
    allow(*before)


@pytest.mark.parametrize(
    ("name", "dtype", "convolutions", "products", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.float32, False, False, 19.5e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, True, False, 156e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, False, True, 156e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, False, False, 312e12),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, True, True, 989.5e12),
        ("NVIDIA H100 PCIe", torch.float16, True, True, 756.5e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.float32, True, True, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.float32, True, True, None),
    ],
)
def test_the_peak_is_that_of_the_device_and_what_torch_may_use(
    name: str,
    dtype: torch.dtype,
    convolutions: bool,
    products: bool,
    expected: float | None,
    tf32: Callable[[bool, bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    tf32(convolutions, products)
    assert peak_flops_per_second(CUDA, dtype) == expected


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops_per_second(torch.device("cpu"), torch.float32) is None


@pytest.mark.parametrize("name", PEAKS)
def test_narrower_numbers_are_faster(name: str) -> None:
    """Tensor cores do bf16 at twice the rate of TF32, to what data sheets round; a sparse rate among dense ones would stand out."""
    peak = PEAKS[name]
    assert peak.fp32 <= peak.tf32
    assert peak.half == pytest.approx(2 * peak.tf32, rel=0.03)
