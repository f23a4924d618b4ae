"""What a trainer's iteration is made of, in seconds, measured while it trains as it always does."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from distgan.batch import Batch
from distgan.bench.scaling.report import BatchPoint
from distgan.data.reading.samples import ReadStatistics
from distgan.metrics.stopwatch import Stopwatch
from distgan.phases import Statistics
from distgan.trainer import Trainer

_QUARTILES_OF_NORMAL = 1.349  # from the lower to the upper quartile of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Turn:
    """Some iterations in a row, as many of each kind as there are in the long run."""

    period: int  # the iterations after which penalties fall as before
    seconds: float  # of the wall clock
    parts: dict[str, float]  # seconds by phase; the penalty's are not the discriminator's; `feed` is what is left of the iterations
    iterations: list[float]  # seconds of each
    steps: dict[str, int]  # of each kind, and penalties
    read: ReadStatistics

    @property
    def seconds_per_iteration(self) -> float:
        return self.seconds / len(self.iterations)

    def seconds_per(self, part: str, kind: str) -> float:
        """Of a part, for each step of some kind."""
        return self.parts[part] / self.steps[kind]


class Timed:
    """A trainer whose phases and penalties are timed."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.period = period_of(trainer)
        self._stopwatch = Stopwatch(trainer.world.device)
        backward, phase = trainer.discriminator_engine.backward, trainer.reporter.phase

        def timed_backward(part: str, batch: Batch, *, last: bool) -> Statistics:
            with self._stopwatch.during(part):
                return backward(part, batch, last=last)

        @contextmanager
        def timed_phase(name: str) -> Iterator[None]:
            with self._stopwatch.during(name), phase(name):
                yield

        trainer.discriminator_engine.backward = timed_backward
        trainer.reporter.phase = timed_phase

    def run(self, periods: int) -> list[str]:
        """Train; the names of the iterations' spans."""
        self.trainer.feed.reader.take_statistics()
        names = [f"iteration {number}" for number in range(periods * self.period)]
        for name in names:
            with self._stopwatch.during(name):
                self.trainer.iterate()
        return names

    def turn(self, wall_seconds: float, names: Sequence[str]) -> Turn:
        """What the iterations that `run` named took."""
        spans, read = self._stopwatch.flush(), self.trainer.feed.reader.take_statistics()
        iterations = [spans[name] for name in names]
        penalty = spans.get("penalty", 0.0)
        parts = {"discriminator": spans["discriminator"] - penalty, "penalty": penalty}
        parts |= {name: spans[name] for name in ("generator", "average")}
        parts["feed"] = max(0.0, sum(iterations) - sum(parts.values()) - read.wait_seconds)
        state, gradient_penalty = self.trainer.state, self.trainer.discriminator_phase.gradient_penalty
        discriminator_steps = len(names) * state.discriminator_steps
        steps = {"discriminator": discriminator_steps, "generator": len(names), "both": discriminator_steps + len(names)}
        steps["penalty"] = discriminator_steps // gradient_penalty.every if gradient_penalty else 0
        return Turn(self.period, wall_seconds, parts, iterations, steps, read)


def period_of(trainer: Trainer) -> int:
    """The iterations after which penalties fall as before."""
    penalty = trainer.discriminator_phase.gradient_penalty
    return 1 if penalty is None else penalty.every // math.gcd(penalty.every, trainer.state.discriminator_steps)


def point_of(batch: int, turns: Sequence[Turn]) -> BatchPoint:
    """The medians over the turns of one rank alone."""

    def median(part: str, kind: str) -> float:
        return statistics.median(turn.seconds_per(part, kind) for turn in turns)

    return BatchPoint(
        batch=batch,
        iteration=statistics.median(turn.seconds_per_iteration for turn in turns),
        discriminator=median("discriminator", "discriminator"),
        penalty=median("penalty", "penalty") if turns[0].steps["penalty"] else None,
        generator=median("generator", "generator"),
        average=median("average", "generator"),
        feed=median("feed", "both"),
        num_samples=len(turns),
        jitter=jitter_of([turn.iterations for turn in turns], turns[0].period),
    )


def jitter_of(turns: Sequence[Sequence[float]], period: int) -> float:
    """How much an iteration's time varies: its standard deviation as a share of the median of its place in the period.

    From the quartiles, as the tail is of whatever else the machine did; penalties are no variation.
    """
    shares = []
    for place in range(period):
        seconds = [one for turn in turns for one in turn[place::period]]
        median = statistics.median(seconds)
        shares += [one / median for one in seconds]
    lower, _, upper = statistics.quantiles(shares, n=4, method="inclusive")
    return (upper - lower) / _QUARTILES_OF_NORMAL
