"""What the benchmark of damage found: written as JSON, printed as tables."""

import itertools

from distgan.bench.damage.cases import NUM_SAMPLES
from distgan.bench.record import BenchmarkRun, Record
from distgan.bench.table import table

LARGE_MEGABYTES = 100  # of a peak that is worth a word


class Outcome(Record):
    """What one contestant made of one damage."""

    contestant: str
    right: int  # of the twenty samples, those that came out with the pixels and the label that were packed
    wrong: int  # images that came out with other pixels, or another label
    doubled: int  # how often a right one came once more
    ended: str  # read, error, hung (killed after a time) or killed (by the kernel)
    said: list[str]  # warnings and the error, the first ones
    counted: int | None  # how many samples distgan says are lost, where it went on without them
    ran_code: bool  # out of the data
    batch_sizes: list[int] | None  # in their order, where batches were asked for
    peak_megabytes: float | None  # of the reading process, beyond what it held before; None: it was killed

    def cell(self) -> str:
        """For the table."""
        parts = [f"{self.right}"]
        parts += [f"{self.wrong} wrong"] * (self.wrong > 0) + [f"{self.doubled} doubled"] * (self.doubled > 0)
        if self.ended == "read":
            is_all = (self.right, self.wrong, self.doubled) == (NUM_SAMPLES, 0, 0)
            parts.append(f"{self.counted} counted" if self.counted else "warned" if self.said else "" if is_all else "silent")
        else:
            parts.append(self.ended)
        if self.peak_megabytes is not None and self.peak_megabytes >= LARGE_MEGABYTES:
            parts.append(f"{self.peak_megabytes:,.0f} MB")
        if self.batch_sizes is not None:
            parts.append(f"batches of {_runs(self.batch_sizes)}")
        parts += ["RAN IT"] * self.ran_code
        return ", ".join(part for part in parts if part)


class Result(Record):
    """One kind of damage."""

    group: str
    name: str
    whole: int  # samples that it leaves as they were packed
    declined: int  # of these, those that distgan does not take, by its rules
    is_visible: bool  # whether anything in the shard tells of it
    outcomes: list[Outcome]

    def of(self, contestant: str) -> Outcome:
        """What that one made of it."""
        return next(outcome for outcome in self.outcomes if outcome.contestant == contestant)


class DamageReport(BenchmarkRun):
    """One run of the benchmark."""

    webdataset: str  # its version
    pillow: str
    results: list[Result]

    def head(self) -> str:
        """What was measured on what, and how to read the tables."""
        return "\n".join(
            [
                *self.origin(),
                f"webdataset {self.webdataset}, Pillow {self.pillow}",
                "whole: of 20 samples, those that the damage leaves as they were packed. A cell: how many came out right; how many wrong",
                "or doubled; how it ended, if not at the end of the data, or that it warned, or how many samples it counted as lost, or",
                "that it was silent although not all came out right and once; the peak of its memory, if it was above "
                f"{LARGE_MEGABYTES} MB;",
                "sizes of batches; whether it ran what the data told it to.",
            ]
        )

    def tables(self) -> str:
        """A table of each group."""
        groups = list(dict.fromkeys(result.group for result in self.results))
        return "\n\n".join(_table(group, [result for result in self.results if result.group == group]) for group in groups)

    def sentences(self) -> str:
        """What was said, of each damage and contestant the first of it."""
        lines = []
        for result in self.results:
            lines.append(result.name)
            for outcome in result.outcomes:
                first = outcome.said[-1] if outcome.ended == "error" else outcome.said[0] if outcome.said else "-"
                lines.append(f"    {outcome.contestant}: {first}")
        return "\n".join(lines)


def _runs(sizes: list[int]) -> str:
    """[4, 4, 1] -> '2x4 1'."""
    runs = [(size, len(list(group))) for size, group in itertools.groupby(sizes)]
    return " ".join(f"{count}x{size}" if count > 1 else str(size) for size, count in runs) or "nothing"


def _table(group: str, results: list[Result]) -> str:
    contestants = [outcome.contestant for outcome in results[0].outcomes]
    lines = [["", "whole", *contestants]]
    lines += [[result.name, str(result.whole), *(outcome.cell() for outcome in result.outcomes)] for result in results]
    return table(group, lines, {1}, left=len(lines[0]))
