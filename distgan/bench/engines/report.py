"""What the benchmark of the engines found: written as JSON, printed as tables."""

from collections.abc import Sequence
from typing import Literal

from distgan.bench.record import BenchmarkRun, Record
from distgan.bench.table import table

BASELINE = "ddp"
Network = Literal["discriminator", "generator"]
_WIDTH = 60  # characters of a timeline


class Speed(Record):
    """One engine on so many ranks. The engines of a number of ranks took turns."""

    ranks: int
    engine: str
    median_ms: float  # of an iteration, all its penalties included
    quartiles_ms: tuple[float, float]
    num_samples: int
    images_per_second: float  # over all ranks
    times_ddp: float  # DDP's median on as many ranks over this one's: above 1 is faster
    times_one_rank: float | None  # images/s over those of the same engine on one rank; None: that was not measured


class Exchange(Record):
    """What each rank sends in an iteration, were all exchanges done on a ring."""

    ranks: int
    engine: str
    network: Network
    megabytes: float
    least_megabytes: float  # in which a ring all-reduce averages a gradient in each step of the network
    milliseconds: float  # in which an exchange was under way, waiting for other ranks included


class Overlap(Record):
    """One backward pass of a network's loss; times in ms since its first gradient was there."""

    ranks: int
    engine: str
    network: Network
    last_gradient_ms: float
    exchanges: list[tuple[float, float, float]]  # megabytes sent, begin, end

    @property
    def share(self) -> float:
        """Of the time of all exchanges, the part in which gradients were still being computed."""
        total = sum(end - begin for _, begin, end in self.exchanges)
        return sum(max(0.0, min(end, self.last_gradient_ms) - begin) for _, begin, end in self.exchanges) / total if total else 0.0


class Memory(Record):
    """What a rank holds of the networks, gradients, optimizers and the average, in MB (10^6 bytes)."""

    ranks: int
    engine: str
    parameters: tuple[int, int]  # of discriminator and generator
    between_steps: float
    expected_between_steps: float
    before_step: float  # of the discriminator, when its gradients are there
    expected_before_step: float
    peak: float  # within an iteration


class EnginesReport(BenchmarkRun):
    """One run of the benchmark."""

    settings: dict[str, object]  # that differ from the defaults of distgan.train
    batch_size: int
    penalty_every: int | None
    seconds: float
    speeds: list[Speed]
    exchanges: list[Exchange]
    overlaps: list[Overlap]
    memory: list[Memory]

    def head(self) -> str:
        """What was measured on what, and how to read the tables."""
        settings = ", ".join(f"{field} {value}" for field, value in self.settings.items()) or "the defaults"
        return "\n".join(
            [
                *self.origin(),
                f"settings: {settings}; global batch {self.batch_size}, "
                + (f"a penalty in every {self.penalty_every}. step" if self.penalty_every else "no penalty"),
            ]
        )

    def tables(self) -> str:
        """Everything, each kind under a heading that says how to read it."""
        parts = [_speeds(self.speeds), _exchanges(self.exchanges), *(_overlap(overlap) for overlap in self.overlaps), _memory(self.memory)]
        return "\n\n".join(part for part in parts if part)


def _rules(keys: Sequence[object]) -> set[int]:
    """The lines of a table, head included, with which a new key begins."""
    return {number + 1 for number, key in enumerate(keys) if number == 0 or keys[number - 1] != key}


def _speeds(speeds: list[Speed]) -> str:
    head = ["ranks", "engine", "ms", "quartiles", "img/s", "x ddp", "x one rank"]
    lines = [
        [
            str(speed.ranks),
            speed.engine,
            f"{speed.median_ms:.1f}",
            f"{speed.quartiles_ms[0]:.1f} to {speed.quartiles_ms[1]:.1f}",
            f"{speed.images_per_second:.0f}",
            f"{speed.times_ddp:.2f}",
            "-" if speed.times_one_rank is None else f"{speed.times_one_rank:.2f}",
        ]
        for speed in speeds
    ]
    return table("an iteration: median and quartiles, in turns", [head, *lines], _rules([speed.ranks for speed in speeds]))


def _exchanges(exchanges: list[Exchange]) -> str:
    if not exchanges:
        return ""
    head = ["ranks", "network", "engine", "MB", "ring minimum", "x minimum", "ms"]
    lines = [
        [
            str(one.ranks),
            one.network,
            one.engine,
            f"{one.megabytes:.3f}",
            f"{one.least_megabytes:.3f}",
            f"{one.megabytes / one.least_megabytes:.2f}",
            f"{one.milliseconds:.1f}",
        ]
        for one in exchanges
    ]
    title = "exchanged in an iteration: MB that each rank sends, ms with an exchange under way"
    return table(title, [head, *lines], _rules([(one.ranks, one.network) for one in exchanges]), left=3)


def _overlap(overlap: Overlap) -> str:
    end = max(overlap.last_gradient_ms, *(until for _, _, until in overlap.exchanges))

    def bar(begin: float, until: float, mark: str) -> str:
        first, last = (round(_WIDTH * moment / end) for moment in (begin, until))
        return (" " * first + mark * max(1, last - first)).ljust(_WIDTH)

    head = ["", "", "from", "to ms"]
    lines = [["gradients", bar(0, overlap.last_gradient_ms, "="), "0.0", f"{overlap.last_gradient_ms:.1f}"]]
    for megabytes, begin, until in overlap.exchanges:
        lines.append([f"{megabytes:.3f} MB", bar(begin, until, "#"), f"{begin:.1f}", f"{until:.1f}"])
    title = (
        f"{overlap.network}'s backward under {overlap.engine} on {overlap.ranks} ranks: "
        f"{100 * overlap.share:.0f} % of the exchange while gradients were computed"
    )
    return table(title, [head, *lines], {1})


def _memory(memory: list[Memory]) -> str:
    if not memory:
        return ""
    first = memory[0]
    head = ["engine", "between steps", "expected", "before a step", "expected", "peak"]
    figures = ("between_steps", "expected_between_steps", "before_step", "expected_before_step", "peak")
    lines = [[one.engine, *(f"{getattr(one, figure):.0f}" for figure in figures)] for one in memory]
    sizes = "discriminator and generator with {:,} and {:,} parameters".format(*first.parameters)
    title = f"MB of a rank of {first.ranks}, {sizes}"
    return table(title, [head, *lines], {1}, left=1)
