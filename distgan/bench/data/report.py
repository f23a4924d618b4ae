"""What the benchmark of data found: written as JSON, printed as tables."""

from distgan.bench.record import BenchmarkRun, Record
from distgan.bench.table import table


class Throughput(Record):
    """One contestant with one image set. The contestants of a set took turns."""

    images: str  # name of the set
    source: str  # where the images lay: local files, or a server
    contestant: str
    samples_per_second: float  # median
    quartiles: tuple[float, float]
    num_turns: int
    times_webdataset: float  # above 1 is faster
    cpu_microseconds: float  # of a sample, over all processes; median


class Waiting(Record):
    """Training with the default recipe."""

    ranks: int
    images_per_second: float  # over all ranks
    share: float  # of an iteration's time in which a rank waited for images, the largest of the ranks'


class DataReport(BenchmarkRun):
    """One run of the benchmark."""

    webdataset: str  # its version
    num_workers: int
    batch_size: int
    seconds: float
    throughputs: list[Throughput]
    waiting: Waiting | None

    def head(self) -> str:
        """What was measured on what, and how to read the tables."""
        return "\n".join(
            [
                *self.origin(),
                f"webdataset {self.webdataset}; {self.num_workers} worker processes each, batches of {self.batch_size}",
                "samples/s: median and quartiles, in turns. CPU: of all processes together; other work on the machine hardly changes it.",
            ]
        )

    def tables(self) -> str:
        """A table for each source, and what a training run waits."""
        sources = list(dict.fromkeys(one.source for one in self.throughputs))
        parts = [_table(source, [one for one in self.throughputs if one.source == source]) for source in sources]
        if self.waiting is not None:
            parts.append(
                f"training with the default recipe on {self.waiting.ranks} ranks: {self.waiting.images_per_second:.0f} images/s, "
                f"{100 * self.waiting.share:.2f} % of the time waiting for images"
            )
        return "\n\n".join(parts)


def _table(source: str, rows: list[Throughput]) -> str:
    lines = [["", "", "samples/s", "quartiles", "x webdataset", "CPU us/sample"]]
    rules = set()
    for number, row in enumerate(rows):
        is_first = number == 0 or rows[number - 1].images != row.images
        rules |= {len(lines)} if is_first else set()
        lines.append(
            [
                row.images if is_first else "",
                row.contestant,
                f"{row.samples_per_second:,.0f}",
                f"{row.quartiles[0]:,.0f} to {row.quartiles[1]:,.0f}",
                f"{row.times_webdataset:.2f}",
                f"{row.cpu_microseconds:.0f}",
            ]
        )
    return table(source, lines, rules)
