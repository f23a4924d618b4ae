"""The benchmark of scaling: what it derives from what it timed and counted, what it prints, and the documented record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgan.bench.scaling import prediction
from distgan.bench.scaling.exchange import _exchanged
from distgan.bench.scaling.measured import figures_of, topology_here
from distgan.bench.scaling.report import AllReduce, Check, ScalingReport, Speed
from distgan.bench.scaling.timing import Turn, jitter_of, point_of
from distgan.data.reading.samples import ReadStatistics
from distgan.metrics.traffic import Span
from distgan.planning.collectives import ring_seconds

DOCS = Path(__file__).parents[3] / "docs"
RECORD = DOCS / "benchmarks" / "scaling-cpu.json"


def _turn(iteration: float, penalty: float) -> Turn:
    """Two iterations of two discriminator steps each, a penalty in every other of those."""
    parts = {"discriminator": 0.4 * iteration, "penalty": penalty, "generator": 0.3 * iteration, "average": 0.02, "feed": 0.06}
    steps = {"discriminator": 4, "generator": 2, "both": 6, "penalty": 2}
    return Turn(1, iteration * 2 + 0.1, parts, [iteration, iteration], steps, ReadStatistics())


def test_a_point_has_the_medians_of_the_turns_for_each_step() -> None:
    point = point_of(32, [_turn(1.0, 0.2), _turn(2.0, 0.6), _turn(9.0, 0.4)])
    assert point.batch == 32
    assert point.iteration == pytest.approx(2.05)
    assert (point.discriminator, point.penalty, point.generator) == pytest.approx((0.2, 0.2, 0.3))
    assert (point.average, point.feed) == pytest.approx((0.01, 0.01))
    assert point.num_samples == 3


def test_jitter_is_the_deviation_but_for_penalties_and_the_tail() -> None:
    draws = np.random.default_rng(0).normal(1.0, 0.03, size=(50, 8))
    draws[:, 3::4] *= 2  # every fourth iteration has a penalty, and takes twice as long
    draws[7] *= 50  # and once the machine did something else
    assert jitter_of(draws.tolist(), 4) == pytest.approx(0.03, rel=0.15)
    assert jitter_of([[1.0, 2.0], [1.0, 2.0]], 2) == 0
    assert jitter_of([[1.0, 2.0], [1.0, 2.0]], 1) > 0.1, "without knowing of it, it would be"


def _span(num_bytes: float) -> Span:
    return Span("generator", "all_reduce", num_bytes, 0.0, 0.0)


def test_buckets_are_what_is_exchanged_more_than_without_the_gradient() -> None:
    """One of the buckets is as small as the statistics, another smaller. On 2 ranks, each sends as many bytes as the tensor has."""
    step = [_span(16), _span(48), _span(4000), _span(16), _span(16), _span(8)]
    found = _exchanged(2 * step, 2 * [_span(16), _span(48), _span(16)], steps=2, num_ranks=2)
    assert sorted(found.bucket_bytes) == [8, 16, 4000]
    assert (found.small_exchanges, found.small_bytes) == (3, pytest.approx(80 / 3))
    assert _exchanged([_span(4000)], [], steps=1, num_ranks=2).small_exchanges == 0
    with pytest.raises(AssertionError):
        _exchanged([_span(4000), _span(4000), _span(1)], [], steps=2, num_ranks=2)


def _report(**changes: Any) -> ScalingReport:
    return ScalingReport.model_validate(json.loads((DOCS / "benchmarks" / "scaling-invented.json").read_text()) | changes)


def _lines_of(report: ScalingReport) -> list[str]:
    return [" ".join(line.split()) for line in f"{report.head()}\n{report.tables()}".splitlines()]


CPU = _report(
    device="cpu",
    all_reduces=[AllReduce(ranks=2, device="cpu", bytes=size, seconds=1e-4 + size / 2e9).model_dump() for size in (4, 4096, 2**20)],
    speeds=[
        Speed(ranks=ranks, batch=64, median_ms=ms, quartiles_ms=(ms - 1, ms + 1), num_samples=9, images_per_second=64000 / ms).model_dump()
        for ranks, ms in ((1, 132.0), (2, 80.0))
    ],
    beside=1.25,
)


def test_the_json_comes_back_and_the_tables_say_everything(tmp_path: Path) -> None:
    report = CPU.model_copy(update={"checks": [Check(ranks=2, batch=64, measured_ms=80.0, predicted_ms=72.0, predicted_beside_ms=88.0)]})
    report.write(tmp_path / "scaling.json")
    assert ScalingReport.model_validate_json((tmp_path / "scaling.json").read_text()) == report
    lines = _lines_of(report)
    for line in (
        "64 132.43 72.67 83.48 53.44 0.50 0.30 1.0 %",
        "discriminator 5.00 1057.4 -0.0 %",
        "generator 115,367,427 17 18 x 25.637 10 18842 50 %",
        "2 cpu 1,048,576 0.624 1.680",
        "2 cpu the line: 0.100 ms, then 2.000 GB/s",
        "log line, with 2 ranks 10.00 ms, 4 rounds on a ring",
        "2 64 80.0 79.0 to 81.0 800",
        "predicted from one rank and the all-reduces; beside another that trains for itself, one rank takes 1.25 times as long",
        "2 64 80.0 72.0 0.90 88.0 1.10",
    ):
        assert line in lines, "\n".join(lines)
    assert max(len(line) for line in report.tables().splitlines()) <= 140


def test_a_machine_is_what_its_all_reduces_say() -> None:
    topology = topology_here(CPU, 2)
    assert ring_seconds(1e6, 2, topology.node_bandwidth, topology.node_latency) == pytest.approx(1e-4 + 1e6 / 2e9)
    assert figures_of(CPU).host_step_seconds == pytest.approx(1e-4 / 2)


def test_noise_is_told_apart_from_what_grows_with_a_rank_s_own_images() -> None:
    """It was timed between the phases on a CPU, and beside them on a GPU."""
    points = [point.model_dump() | {"feed": 1e-4 + 3e-6 * point.batch} for point in CPU.points]
    on_gpu, on_cpu = (figures_of(_report(device=device, points=points)).feed_seconds for device in ("cuda", "cpu"))
    assert CPU.costs.draw_seconds_per_image == 1e-6
    assert (on_gpu.fixed, on_gpu.each, on_cpu.fixed, on_cpu.each) == pytest.approx((1e-4, 3e-6, 1e-4, 2e-6))


def test_two_ranks_are_predicted_from_one_and_the_all_reduces() -> None:
    """By hand: half of the images, what two ranks exchange behind half of a step, the noise of all of them, and the slower rank."""
    (check,) = prediction.checks(CPU)
    discriminator, penalty, generator = (5 + 32 * 1.0573873, 6 + 32 * 1.2106478, 5 + 32 * 0.7568215)
    noise = 2 * 64 * 1e-3
    computing = discriminator + penalty / 16 + generator + 0.5 + 2 * (0.3 - 1e-3 * 64) + noise  # in ms; the feed is flat
    small = 15 * (0.1 + 18842e3 / 2e9)
    exchanged = 0.0
    for network, step in (("discriminator", discriminator), ("generator", generator)):
        buckets = CPU.network(network).bucket_bytes  # pyright: ignore[reportArgumentType]
        seconds = sum(0.1 + 1e3 * size / 2e9 for size in buckets)
        hidden = 1 - 1 / len(buckets)
        exchanged += max((1 - hidden) * seconds, seconds - hidden * 0.5 * step)
    slower = 17**0.5 * 0.01 * (computing - noise) * np.pi**-0.5
    assert check.measured_ms == 80
    assert check.predicted_ms == pytest.approx(computing + small + exchanged + slower, rel=2e-3)
    assert check.ratio == check.predicted_ms / 80
    assert check.predicted_beside_ms is not None
    assert check.predicted_ms < check.predicted_beside_ms < 1.25 * check.predicted_ms


def test_the_documented_tables_are_of_the_recorded_figures() -> None:
    report = ScalingReport.model_validate_json(RECORD.read_text())
    text = (DOCS / "scaling.md").read_text()
    assert f"```\n{report.head()}\n\n{report.tables()}\n```" in text
    assert report.checks == prediction.checks(report), "the model has changed since: record it again"
