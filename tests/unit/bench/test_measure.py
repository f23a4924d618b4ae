"""Turns, samples and figures, by a clock that is told the time; nothing here depends on how fast anything is."""

import math
from collections.abc import Callable

import pytest
import torch

from distgan.bench import measure as module
from distgan.bench.measure import COPY, MIN_ROUNDS, Contestant, Row, Unavailable, calls_per_sample, interleave, measure, relative_difference

CPU = torch.device("cpu")


class FakeClock:
    """A call takes what `seconds` says of its contestant; remembers who ran."""

    def __init__(self, seconds: dict[Callable[[], object], float]) -> None:
        self.seconds = seconds
        self.order: list[Callable[[], object]] = []

    def __call__(self, run: Callable[[], object], calls: int) -> float:
        self.order.append(run)
        return calls * self.seconds[run]


def _runs(*names: str) -> dict[str, Callable[[], object]]:
    return {name: (lambda name=name: name) for name in names}


def test_every_round_has_every_contestant_once_and_no_order_is_for_ever() -> None:
    runs = _runs("a", "b", "c")
    clock = FakeClock(dict.fromkeys(runs.values(), 0.01))
    samples = interleave(runs, dict.fromkeys(runs, 2), clock, seconds=1.2)
    rounds = [clock.order[start : start + 3] for start in range(0, len(clock.order), 3)]
    assert len(rounds) == 20  # 3 contestants x 2 calls x 10 ms
    assert all(set(one) == set(runs.values()) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert all(times == [pytest.approx(0.01)] * 20 for times in samples.values())


def test_a_row_has_enough_rounds_for_quartiles_whatever_the_budget() -> None:
    runs = _runs("slow")
    assert len(interleave(runs, {"slow": 1}, FakeClock({runs["slow"]: 100.0}), seconds=0.1)["slow"]) == MIN_ROUNDS


def test_nothing_to_run_is_no_endless_loop() -> None:
    assert interleave({}, {}, FakeClock({}), seconds=1) == {}


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1), (0.002, 1), (0.0005, 4), (0.0003, 7), (1e-9, 1000), (0.0, 1000)])
def test_short_calls_are_timed_several_at_once(seconds: float, calls: int) -> None:
    (run,) = _runs("a").values()
    assert calls_per_sample(run, FakeClock({run: seconds})) == calls


def test_the_difference_is_relative_to_all_of_the_expected_tensors() -> None:
    expected = [torch.tensor([3.0, 0.0]), torch.tensor(4.0)]
    assert relative_difference([torch.tensor([3.0, 0.3]), torch.tensor(4.4)], expected) == pytest.approx(0.1)
    assert relative_difference(expected, expected) == 0
    assert math.isnan(relative_difference([torch.tensor([3.0, math.nan]), torch.tensor(4.0)], expected))


def _row(**contestants: Callable[[], Contestant]) -> Row:
    return Row("group", "subject", 6_000_000, contestants)


def test_figures_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.ones(3)
    eager = Contestant(lambda: [value])
    ours = Contestant(lambda: [1.001 * value])
    copy = Contestant(lambda: None, bytes_moved=4_000_000)
    clock = FakeClock({eager.run: 0.004, ours.run: 0.001, copy.run: 0.0005})
    monkeypatch.setattr(module, "stopwatch_for", lambda device: clock)
    result = measure(_row(eager=lambda: eager, distgan=lambda: ours, **{COPY: lambda: copy}), CPU, seconds=1)
    baseline, timing, floor = result.timings
    assert result.baseline == baseline.contestant == "eager"
    assert (baseline.median_ms, baseline.times_baseline, baseline.difference) == (pytest.approx(4), 1, None)
    assert (timing.median_ms, timing.times_baseline) == (pytest.approx(1), pytest.approx(4))
    assert timing.quartiles_ms == (pytest.approx(1), pytest.approx(1))
    assert timing.difference == pytest.approx(1e-3, rel=1e-3)
    assert timing.gigabytes_per_second == pytest.approx(6)
    assert timing.share_of_copy == pytest.approx(0.75)  # the copy: 8 GB/s
    assert (floor.share_of_copy, floor.times_baseline, floor.difference) == (1, None, None)
    assert timing.launches is None


def test_medians_and_quartiles_are_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = Contestant(lambda: None)
    times = iter([9.0, 9.0, 9.0, 5.0, 1.0, 2.0, 4.0, 3.0])  # three calls estimate, five are samples
    monkeypatch.setattr(module, "stopwatch_for", lambda device: lambda run, calls: next(times))
    (timing,) = measure(_row(eager=lambda: contestant), CPU, seconds=1).timings
    assert (timing.median_ms, timing.quartiles_ms, timing.num_samples) == (3000, (2000, 4000), 5)


def test_what_cannot_run_is_reported_with_its_reason() -> None:
    def unavailable() -> Contestant:
        raise Unavailable("needs a GPU")

    def failing() -> list[torch.Tensor]:
        raise NotImplementedError("no kernel\nand a page of details")

    result = measure(_row(eager=lambda: Contestant(lambda: None), graph=unavailable, odd=lambda: Contestant(failing)), CPU, 0.001)
    assert [timing.contestant for timing in result.timings] == ["eager"]
    assert [(item.contestant, item.reason) for item in result.not_run] == [
        ("graph", "needs a GPU"),
        ("odd", "NotImplementedError: no kernel"),
    ]


def test_a_row_without_its_baseline_has_times_but_no_ratios() -> None:
    def unavailable() -> Contestant:
        raise Unavailable("gone")

    result = measure(_row(eager=unavailable, distgan=lambda: Contestant(lambda: None)), CPU, 0.001)
    assert result.timings[0].times_baseline is None


def test_only_keeps_the_baseline_and_the_floor_beside_what_was_asked_for() -> None:
    row = _row(eager=lambda: Contestant(lambda: None), compile=Contestant, distgan=Contestant, copy=Contestant)
    chosen = row.only(["SUBJECT", "dist"])
    assert chosen is not None
    assert list(chosen.contestants) == ["eager", "distgan", "copy"]
    everything = row.only([])
    assert everything is not None
    assert everything.contestants == row.contestants
    assert row.only(["subject", "other"]) is None
