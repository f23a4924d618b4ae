"""What the operators are to reach, as data, and whether a report reaches it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distgan.bench.networks import BIGGAN, HUNDRED, LARGE, MEDIUM, SNGAN, TINY
from distgan.bench.ops import gradient_penalty, penalty_phase, spectral_norm
from distgan.bench.report import Report, RowResult, Timing

OURS = "distgan"

NOISE = 0.05  # two runs of the same code differ by as much

GOALS_FOR = {"cpu": "two CPU threads", "cuda": "one NVIDIA H200"}


@dataclass(frozen=True)
class Goal:
    """A bound on one figure of our contestant in every row of `group` whose subject begins with `subject`."""

    group: str
    subject: str
    figure: Callable[[RowResult, Timing], float | None]  # None: it was not measured
    bound: float
    unit: str
    at_least: bool = True

    def verdicts(self, report: Report) -> Iterator[str]:
        """A line for each row."""
        for row in report.rows:
            if row.group != self.group or not row.subject.startswith(self.subject):
                continue
            ours = row.timing(OURS)
            value = None if ours is None else self.figure(row, ours)
            reached = value is not None and (value >= self.bound if self.at_least else value <= self.bound)
            found = "not measured" if value is None else f"{value:.3g}"
            wanted = f"{'at least' if self.at_least else 'at most'} {self.bound:g} {self.unit}"
            yield f"{_word(reached, value is not None)}  {row.group}: {row.subject}: {found}, goal {wanted}"


def _times(contestant: str) -> Callable[[RowResult, Timing], float | None]:
    def figure(row: RowResult, ours: Timing) -> float | None:
        other = row.timing(contestant)
        return other and other.median_ms / ours.median_ms

    return figure


def _faster(group: str, subject: str, bound: float, than: str) -> Goal:
    return Goal(group, subject, _times(than), bound, f"x {than}")


def _share_of_copy(group: str, subject: str, bound: float) -> Goal:
    return Goal(group, subject, lambda _, ours: ours.share_of_copy and 100 * ours.share_of_copy, bound, "% of copy")


def _at_most(group: str, subject: str, bound: float, unit: str, figure: Callable[[Timing], float | None]) -> Goal:
    return Goal(group, subject, lambda _, ours: figure(ours), bound, unit, at_least=False)


_PENALTY_PHASE = [
    _faster(penalty_phase.PHASE, "LeakyReLU", 1.4, "stock"),
    _at_most(penalty_phase.PHASE, "", 1e-12, "from stock in float64", lambda ours: ours.difference),
]
_LARGEST_IMAGES = str(list(gradient_penalty.SHAPES[-1]))

GOALS = {
    "cpu": [
        _faster(spectral_norm.FORWARD, TINY.name, 8, "eager"),
        _faster(spectral_norm.FORWARD, MEDIUM.name, 2.5, "eager"),
        _faster(spectral_norm.FORWARD, LARGE.name, 1.8, "eager"),
        *(_faster(spectral_norm.FORWARD, network.name, 2, "compile") for network in (TINY, MEDIUM, LARGE)),
        _faster(spectral_norm.BACKWARD, TINY.name, 4, "eager"),
        *_PENALTY_PHASE,
    ],
    "cuda": [
        *(_share_of_copy(spectral_norm.FORWARD, network.name, 85) for network in (HUNDRED, BIGGAN)),
        *(_at_most(spectral_norm.FORWARD, network.name, 2, "launches", lambda ours: ours.launches) for network in (TINY, SNGAN)),
        *(_at_most(spectral_norm.FORWARD, network.name, 15, "us", lambda ours: 1000 * ours.median_ms) for network in (TINY, SNGAN)),
        _faster(spectral_norm.FORWARD, HUNDRED.name, 20, "eager"),
        _faster(spectral_norm.FORWARD, HUNDRED.name, 4, "compile"),
        # Only the largest images are a matter of memory; small ones are a matter of launches.
        *(_share_of_copy(group, _LARGEST_IMAGES, 90) for group in (gradient_penalty.FORWARD, gradient_penalty.INTERPOLATE)),
        *_PENALTY_PHASE,
    ],
}


def summary(report: Report) -> str:
    """A line for each goal set for the device that ran, on each row that ran; nothing of rows that were left out."""
    lines = [verdict for goal in GOALS[report.device] for verdict in goal.verdicts(report)]
    return "\n".join([f"Goals, set for {GOALS_FOR[report.device]}:", *lines, _never_slower(report)])


def _never_slower(report: Report) -> str:
    ours = [(row, timing.times_baseline) for row in report.rows if (timing := row.timing(OURS)) and timing.times_baseline]
    slower = [f"{row.group}: {row.subject} ({times:.2f} x)" for row, times in ours if times < 1 - NOISE]
    found = f"on {len(ours) - len(slower)} of {len(ours)} rows (a ratio above {1 - NOISE:g} is a tie)"
    return "\n         slower: ".join([f"{_word(not slower, bool(ours))}  never slower than the baseline: {found}", *slower])


def _word(reached: bool, measured: bool) -> str:
    return ("reached" if reached else "missed ") if measured else "-      "
