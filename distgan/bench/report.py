"""What a benchmark found: written as JSON, printed as tables."""

from distgan.bench.record import BenchmarkRun, Record
from distgan.bench.table import table


class Timing(Record):
    """One contestant of a row. None stands where a figure has no meaning."""

    contestant: str
    median_ms: float  # of one call
    quartiles_ms: tuple[float, float]
    num_samples: int
    calls_per_sample: int
    first_call_seconds: float  # with compilation, where there is one
    times_baseline: float | None  # median of the baseline over this one's: above 1 is faster
    bytes_moved: int | None  # the least that memory has to deliver and take
    gigabytes_per_second: float | None
    share_of_copy: float | None  # of the bandwidth of the row's `copy`
    difference: float | None  # from the baseline's result, relative
    launches: int | None  # kernels, copies and fills of one call; on a GPU only


class NotRun(Record):
    """A contestant that could not run here."""

    contestant: str
    reason: str


class RowResult(Record):
    """All contestants of one task on data of one size."""

    group: str
    subject: str
    baseline: str
    timings: list[Timing]
    not_run: list[NotRun]

    def timing(self, contestant: str) -> Timing | None:
        return next((timing for timing in self.timings if timing.contestant == contestant), None)


class Report(BenchmarkRun):
    """One run of a benchmark of operators."""

    seconds_per_row: float
    rows: list[RowResult]

    def head(self) -> str:
        """What was measured on what, and how to read the tables."""
        return "\n".join(
            [
                *self.origin(),
                "ms: median and quartiles of a call, in turns. x: median of the baseline (*) over this one's, above 1 is faster.",
                "GB/s: the least that has to be read and written; % of copy: of the bandwidth of torch._foreach_copy_ in the same turns.",
                "differs: Euclidean norm of the difference from the baseline's result over that of the result.",
            ]
        )

    def tables(self) -> str:
        """A table for each group, in the order of their first rows."""
        groups = dict.fromkeys(row.group for row in self.rows)
        return "\n\n".join(_table(group, [row for row in self.rows if row.group == group], self.device) for group in groups)


def _table(group: str, rows: list[RowResult], device: str) -> str:
    launches = ["launches"] if device == "cuda" else []
    lines = [["", "contestant", "ms", "quartiles", "x", "GB/s", "% of copy", "differs", *launches]]
    rules = set()  # lines before which a row of the table begins
    for row in rows:
        rules.add(len(lines))
        for timing in row.timings:
            lines.append(
                [
                    row.subject if len(lines) in rules else "",
                    timing.contestant + ("*" if timing.contestant == row.baseline else ""),
                    _digits(timing.median_ms),
                    f"{_digits(timing.quartiles_ms[0])} to {_digits(timing.quartiles_ms[1])}",
                    _or_dash(timing.times_baseline, ".2f"),
                    _or_dash(timing.gigabytes_per_second, ".1f"),
                    _or_dash(timing.share_of_copy and 100 * timing.share_of_copy, ".0f"),
                    _or_dash(timing.difference, ".0e"),
                    *[_or_dash(timing.launches, "d") for _ in launches],
                ]
            )
        for other in row.not_run:
            lines.append([row.subject if len(lines) in rules else "", other.contestant, f"not run: {other.reason}"])
    return table(group, lines, rules)


def _digits(milliseconds: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:#.3g}" if milliseconds >= 0.1 else f"{milliseconds:.4f}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
