"""The benchmark compares like with like: on small data, every contestant computes what its row's baseline computes."""

from collections.abc import Iterator

import pytest
import torch

from distgan.bench import ops
from distgan.bench.measure import COPY, Row, Unavailable, relative_difference
from distgan.bench.networks import Network
from distgan.bench.ops import ema_update, gradient_penalty, penalty_phase, spectral_norm
from distgan.bench.ops.foreach import foreach_spectral_norm

CPU = torch.device("cpu")
SMALL = [Network("small", ((4, 3, 3, 3), (5, 4), (1, 20)))]
UNCOMPARED = {COPY, "adam alone"}  # they do less than the task

ROWS = [
    *spectral_norm.rows(CPU, SMALL),
    *gradient_penalty.rows(CPU, [(3, 1, 4, 4), (2, 3, 8, 8)]),
    *penalty_phase.rows(CPU, num_images=2),
    *ema_update.rows(CPU, SMALL),
]


@pytest.fixture(autouse=True)
def _compile_without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is compared is the traced function: Inductor would take minutes (tests/integration/test_bench.py lets it run once)."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, options=None, **rest: compile_(function, backend="aot_eager", **rest))
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.subject}")
def test_every_contestant_computes_what_the_baseline_computes(row: Row) -> None:
    expected = None
    compared = []
    for name, build in row.contestants.items():
        try:
            contestant = build()
        except Unavailable as reason:
            assert str(reason) == "needs a GPU"  # noqa: PT017
            continue
        result = contestant.verify() if contestant.verify else contestant.run()
        if name in UNCOMPARED:
            assert result is None
            continue
        assert result is not None
        expected = expected or [tensor.clone() for tensor in result]
        assert all(tensor.isfinite().all() for tensor in result)
        tolerance = 1e-12 if result[0].dtype == torch.float64 else 1e-5
        assert relative_difference(result, expected) < tolerance, name
        compared.append(name)
    assert "distgan" in compared
    assert compared[0] == row.baseline


# The others change nothing in place; the phase of two forwards iterates twice in the baseline and once in the others, by design.
STATEFUL = [row for row in ROWS if row.group in {spectral_norm.FORWARD, spectral_norm.BACKWARD, ema_update.AVERAGE, ema_update.ADAM}]


@pytest.mark.parametrize("row", STATEFUL, ids=lambda row: f"{row.group}: {row.subject}")
def test_the_second_call_goes_on_as_the_baseline_does(row: Row) -> None:
    """What a contestant changes in place is its own, and all change it alike."""
    results = {}
    for name in (row.baseline, "distgan"):
        contestant = row.contestants[name]()
        contestant.run()
        result = contestant.run()
        assert result is not None
        results[name] = [tensor.clone() for tensor in result]
    assert relative_difference(results["distgan"], results[row.baseline]) < 1e-5


def test_the_copy_copies_every_byte() -> None:
    for row in ROWS:
        if COPY in row.contestants:
            moved = row.contestants[COPY]().bytes_moved
            assert moved is not None
            assert row.bytes_moved is not None
            assert moved <= 2 * row.bytes_moved


def test_foreach_spectral_norm_against_autograd_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((4, 3, 2), (3, 5))]
    us = [torch.randn(len(weight), generator=generator, dtype=torch.float64) for weight in weights]
    vs = [torch.randn(weight[0].numel(), generator=generator, dtype=torch.float64) for weight in weights]
    for u, v in zip(us, vs, strict=True):
        u /= u.norm()
        v /= v.norm()
    scaled = foreach_spectral_norm(weights, us, vs)
    for weight, u, v, result in zip(weights, us, vs, scaled, strict=True):
        direct = weight / (u @ weight.flatten(1) @ v)
        torch.testing.assert_close(result, direct)
        gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        (actual,) = torch.autograd.grad(result, weight, gradient, retain_graph=True)
        (expected,) = torch.autograd.grad(direct, weight, gradient)
        torch.testing.assert_close(actual, expected)


def test_rows_differ_in_group_or_subject() -> None:
    labels = [(row.group, row.subject) for row in ops.rows(CPU)]
    assert len(set(labels)) == len(labels)
