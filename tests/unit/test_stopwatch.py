"""Times of phases: on the host's clock for a CPU, on the device's own for a GPU, which is simulated here."""

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.data.reading.samples import ReadStatistics
from distgan.feed import Feed
from distgan.metrics import moment
from distgan.metrics.moment import Moment, renew_zero
from distgan.metrics.stopwatch import Stopwatch
from tests.training import settings, trainer_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class _Event:
    """A CUDA event on a device that gets to what it is told `lag` seconds later, and tells times in milliseconds of fp32."""

    lag: ClassVar[float] = 0.0
    waits: ClassVar[int] = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.reached = time.perf_counter() + _Event.lag

    def synchronize(self) -> None:
        _Event.waits += 1

    def elapsed_time(self, end: "_Event") -> float:
        return float(np.float32(1000 * (end.reached - self.reached)))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return clock


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[_Event]:
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(moment, "_zeros", {})
    monkeypatch.setattr(_Event, "lag", 0.0)
    monkeypatch.setattr(_Event, "waits", 0)
    return _Event


def test_seconds_add_up_by_name(now: list[float]) -> None:
    stopwatch = Stopwatch(CPU)
    for seconds in (1, 2):
        with stopwatch.during("iteration"):
            now[0] += 10
            with stopwatch.during("generator"):
                now[0] += seconds
    assert stopwatch.flush() == {"generator": 3, "iteration": 23}
    assert stopwatch.flush() == {}, "each is told once"


def test_a_gpu_is_timed_by_its_own_clock_and_waited_for_at_the_end_only(now: list[float], gpu: type[_Event]) -> None:
    stopwatch = Stopwatch(CUDA)
    renew_zero(CUDA)
    gpu.waits = 0
    now[0], gpu.lag = 100.0, 3.0  # it is three seconds behind
    with stopwatch.during("generator"):
        now[0] += 0.25  # the host has told it what to do,
        gpu.lag = 7.0  # for which it needs four seconds more than that took
    assert gpu.waits == 0
    assert stopwatch.flush() == {"generator": 4.25}
    assert gpu.waits > 0


def test_a_millisecond_can_be_told_after_a_month(now: list[float], gpu: type[_Event]) -> None:
    stopwatch = Stopwatch(CUDA)
    spans = []
    for day in range(31):
        now[0] = 86400.0 * day
        renew_zero(CUDA)
        with stopwatch.during("generator"):
            now[0] += 0.001
        spans.append(stopwatch.flush()["generator"])
    assert spans == pytest.approx([0.001] * 31, rel=1e-3)


def test_moments_before_and_after_a_renewal_are_on_one_clock(now: list[float], gpu: type[_Event]) -> None:
    before = Moment(CUDA)
    now[0] += 5
    renew_zero(CUDA)
    now[0] += 2
    assert Moment(CUDA).seconds() - before.seconds() == 7


def test_waiting_for_data_is_in_no_phase(now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still but for 100 s of every wait, 4 s of every backward, and 1 s of the average."""

    def slow(function: Any, seconds: float) -> Any:
        def run(*arguments: Any, **keywords: Any) -> Any:
            now[0] += seconds
            return function(*arguments, **keywords)

        return run

    monkeypatch.setattr(Feed, "for_discriminator", slow(Feed.for_discriminator, 100))
    sections = {"train": {"discriminator_steps": 2}, "penalty": {"name": "r1", "every": 1}}
    with trainer_of(settings(tmp_path / "run", **sections)) as trainer:
        for engine in (trainer.discriminator_engine, trainer.generator_engine):
            monkeypatch.setattr(engine, "backward", slow(engine.backward, 4))
        monkeypatch.setattr(trainer.ema, "update", slow(trainer.ema.update, 1))
        with trainer.reporter.iterating():
            trainer.iterate()
        seconds = trainer.reporter._stopwatch.flush()
    assert seconds == {"discriminator": 2 * 2 * 4, "generator": 4, "average": 1, "iteration": 2 * 100 + 16 + 4 + 1}


class _NothingRead(TorchDispatchMode):
    """Fails where a number is brought from the device to the host, as by `.item()`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero), func
        return func(*args, **(kwargs or {}))


def test_between_intervals_nobody_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Moment] = []
    seconds_of = Moment.seconds
    monkeypatch.setattr(Moment, "seconds", lambda self: waits.append(self) or seconds_of(self))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waited for the device"))
    with trainer_of(settings(tmp_path / "run")) as trainer:
        reporter = trainer.reporter
        for _ in range(2):  # the first one counts operations
            with _NothingRead():
                with reporter.iterating():
                    trainer.iterate()
                reporter.iteration(0.1, ReadStatistics())
        assert waits == []
        reporter.interval()
        assert len(waits) == 2 * 2 * (3 + 1)  # the begins and ends of three phases and the iteration
