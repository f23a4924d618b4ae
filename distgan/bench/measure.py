"""Timing of several ways to compute the same thing, one beside the other.

The contestants of a row take turns: every round times each of them once, in an order drawn anew, so whatever else happens on the
machine slows all of them alike and nobody always finds the cache as the same predecessor left it. Medians are compared.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

from distgan.bench.report import NotRun, RowResult, Timing

COPY = "copy"  # the floor: torch._foreach_copy_, which reads and writes each byte once
SAMPLE_SECONDS = 0.002  # a sample is as many calls in a row as take this long: a clock's tick and an interrupt do not count then
MAX_CALLS = 1000
MIN_ROUNDS = 5  # whatever the budget: fewer have no quartiles

Stopwatch = Callable[[Callable[[], object], int], float]  # (run, calls) -> seconds that so many calls in a row take


class Unavailable(Exception):  # noqa: N818 - it is a reason, not an error
    """What a contestant needs is not there; the message says what, and stands in the table."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute what a row is about.

    Args:
        run: what is timed. Returns the tensors to compare with the baseline's, or None if there is nothing to compare.
        bytes_moved: the least that memory has to deliver and take in one call; None: what the row says.
        verify: computes what is compared instead of `run`'s result, for instance in float64.
    """

    run: Callable[[], Sequence[Tensor] | None]
    bytes_moved: int | None = None
    verify: Callable[[], Sequence[Tensor]] | None = None


@dataclass(frozen=True)
class Row:
    """A task on data of one size. The contestants are built when the row's turn comes and dropped after it; the baseline stands first.

    A builder raises `Unavailable` where its contestant cannot run; it is reported as not run, with the reason.
    """

    group: str
    subject: str
    bytes_moved: int | None  # the least that memory has to deliver and take for the task; None: it is not a matter of memory
    contestants: Mapping[str, Callable[[], Contestant]]

    @property
    def baseline(self) -> str:
        return next(iter(self.contestants))

    def only(self, substrings: Sequence[str]) -> "Row | None":
        """The contestants in whose 'group, subject, contestant' every substring stands, the baseline and the floor; None without any."""
        chosen = {
            name for name in self.contestants if all(part.lower() in f"{self.group}, {self.subject}, {name}".lower() for part in substrings)
        }
        if not chosen:
            return None
        kept = {name: build for name, build in self.contestants.items() if name in chosen | {self.baseline, COPY}}
        return Row(self.group, self.subject, self.bytes_moved, kept)


@dataclass(frozen=True)
class _Built:
    contestant: Contestant
    first_call_seconds: float
    difference: float | None


def stopwatch_for(device: torch.device) -> Stopwatch:
    """The wall clock, or the events of a GPU's stream with the queue empty before, so that the launches of small kernels count."""
    if device.type == "cpu":
        return _wall_clock
    assert device.type == "cuda"

    def events(run: Callable[[], object], calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return events


def _wall_clock(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def measure(row: Row, device: torch.device, seconds: float) -> RowResult:
    """Build, compare and time a row's contestants, for `seconds` altogether at least."""
    built, not_run = _build(row)
    stopwatch = stopwatch_for(device)
    calls = {name: calls_per_sample(item.contestant.run, stopwatch) for name, item in built.items()}
    samples = interleave({name: item.contestant.run for name, item in built.items()}, calls, stopwatch, seconds)
    launches = {name: _count_launches(item.contestant.run) if device.type == "cuda" else None for name, item in built.items()}
    medians = {name: statistics.median(of_one) for name, of_one in samples.items()}
    rates = {name: (item.contestant.bytes_moved or row.bytes_moved or 0) / medians[name] for name, item in built.items()}
    timings = []
    for name, item in built.items():
        lower, _, upper = statistics.quantiles(samples[name], n=4, method="inclusive")
        timings.append(
            Timing(
                contestant=name,
                median_ms=1000 * medians[name],
                quartiles_ms=(1000 * lower, 1000 * upper),
                num_samples=len(samples[name]),
                calls_per_sample=calls[name],
                first_call_seconds=item.first_call_seconds,
                times_baseline=medians[row.baseline] / medians[name] if row.baseline in medians and name != COPY else None,
                bytes_moved=item.contestant.bytes_moved or row.bytes_moved,
                gigabytes_per_second=rates[name] / 1e9 or None,
                share_of_copy=rates[name] / rates[COPY] or None if COPY in rates else None,
                difference=item.difference,
                launches=launches[name],
            )
        )
    return RowResult(group=row.group, subject=row.subject, baseline=row.baseline, timings=timings, not_run=not_run)


def _build(row: Row) -> tuple[dict[str, _Built], list[NotRun]]:
    built: dict[str, _Built] = {}
    not_run: list[NotRun] = []
    expected = None
    for name, build in row.contestants.items():
        try:
            contestant = build()
            start = time.perf_counter()
            result = contestant.run()  # compiles, and warms up
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            first_call_seconds = time.perf_counter() - start
            compared = contestant.verify() if contestant.verify else result
        except Unavailable as reason:
            not_run.append(NotRun(contestant=name, reason=str(reason)))
            continue
        except RuntimeError as error:  # of torch, which may lack a compiler, a kernel or memory: the others can go on
            not_run.append(NotRun(contestant=name, reason=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"))
            continue
        difference = None
        if name == row.baseline:
            expected = compared
        elif compared is not None and expected is not None:
            difference = relative_difference(compared, expected)
        built[name] = _Built(contestant, first_call_seconds, difference)
    return built, not_run


def relative_difference(tensors: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The Euclidean norm of all differences over the norm of all that was expected, both in float64."""
    off = math.hypot(*((a.double() - b.double()).norm().item() for a, b in zip(tensors, expected, strict=True)))
    return off / math.hypot(*(b.double().norm().item() for b in expected))


def calls_per_sample(run: Callable[[], object], stopwatch: Stopwatch) -> int:
    """How many calls in a row take `SAMPLE_SECONDS`."""
    seconds_per_call = min(stopwatch(run, 1) for _ in range(3))
    return min(max(math.ceil(SAMPLE_SECONDS / max(seconds_per_call, 1e-9)), 1), MAX_CALLS)


def interleave(
    runs: Mapping[str, Callable[[], object]], calls: Mapping[str, int], stopwatch: Stopwatch, seconds: float
) -> dict[str, list[float]]:
    """Seconds per call of every contestant in every round, until the rounds have taken `seconds` and there are `MIN_ROUNDS`."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle  # noqa: S311 - an order of measuring, no secret
    spent, rounds = 0.0, 0
    while runs and (spent < seconds or rounds < MIN_ROUNDS):
        shuffle(order)
        for name in order:
            elapsed = stopwatch(runs[name], calls[name])
            samples[name].append(elapsed / calls[name])
            spent += elapsed
        rounds += 1
    return samples


def _count_launches(run: Callable[[], object]) -> int:
    """Kernels, copies and fills that one call sends to the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profile.events() or [])
