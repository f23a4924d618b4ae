"""What the benchmark of scaling found: written as JSON, which distgan.launch plan reads, and printed as tables."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

from pydantic import Field

from distgan.bench.record import BenchmarkRun, Record
from distgan.bench.table import table
from distgan.planning.figures import Line

Network = Literal["discriminator", "generator"]


class BatchPoint(Record):
    """One rank alone with so many images a step. Seconds are medians; trainers took turns."""

    batch: int = Field(ge=1)
    iteration: float = Field(gt=0)  # by the wall clock, with all that is in it
    discriminator: float = Field(gt=0)  # of a step, making its fakes included, the penalty not
    penalty: float | None  # None: there is none
    generator: float = Field(gt=0)  # of a step
    average: float
    feed: float  # between the phases, for each step of either network; waiting for data not included
    num_samples: int
    jitter: float = Field(ge=0)  # standard deviation of an iteration's time as a share of it, from its quartiles


class NetworkCount(Record):
    """What belongs to a network and its steps."""

    network: Network
    parameters: int = Field(ge=1)
    tensors: int = Field(ge=1)
    buffer_bytes: int = Field(ge=0)
    bucket_bytes: list[float] = Field(min_length=1)  # of its gradient, as DDP exchanged it in a step, in that order
    small_exchanges: int = Field(ge=0)  # beside those, in a step
    small_bytes: float = Field(ge=0)  # of each, on average
    backward_share: float = Field(ge=0, le=1)  # of a step: from the first gradient of its last backward to the last, on one rank


class AllReduce(Record):
    """One all-reduce of so many bytes on so many ranks of this machine."""

    ranks: int = Field(ge=2)
    device: str  # of the tensor: cpu or cuda
    bytes: int = Field(ge=1)
    seconds: float = Field(gt=0)  # median


class Costs(Record):
    """What comes beside the iterations."""

    draw_seconds_per_image: float = Field(ge=0)  # of an image's noise, in one step
    checkpoint_bytes: int = Field(gt=0)  # of all its files
    checkpoint_tensor_bytes: int = Field(gt=0)
    checkpoint_seconds: float = Field(gt=0)
    start_seconds: float = Field(gt=0)  # from the start of the process, on one rank, to the end of its first iteration, with a checkpoint
    grid_seconds: float = Field(ge=0)
    log_line_seconds: float = Field(ge=0)  # on two ranks
    log_line_rounds: float = Field(ge=0)  # on a ring of processes: two of an all-reduce, one of a gathering
    vote_rounds: float = Field(ge=0)  # the same of what an iteration exchanges in no network's phase, about stopping
    bytes_per_sample: float = Field(gt=0)
    read_seconds_per_sample: float = Field(ge=0)  # of one process: reading and decoding
    samples: int = Field(ge=1)  # that the data has


class Speed(Record):
    """The real trainer on so many ranks."""

    ranks: int
    batch: int  # over all ranks
    median_ms: float  # of an iteration, its share of penalties included
    quartiles_ms: tuple[float, float]
    num_samples: int
    images_per_second: float


class Check(Record):
    """What the plan's model predicts from one rank and the all-reduces, beside what was measured in the same turns."""

    ranks: int
    batch: int  # over all ranks
    measured_ms: float
    predicted_ms: float
    predicted_beside_ms: float | None  # with the time to compute that one rank takes while another trains for itself on the same machine

    @property
    def ratio(self) -> float:
        return self.predicted_ms / self.measured_ms


class ScalingReport(BenchmarkRun):
    """One run of the benchmark."""

    settings: dict[str, Any]  # of distgan.train, all of them, nested
    changed: dict[str, object]  # those that differ from the defaults
    seconds: float
    points: list[BatchPoint] = Field(min_length=2)
    networks: list[NetworkCount] = Field(min_length=2, max_length=2)
    all_reduces: list[AllReduce] = Field(min_length=1)
    costs: Costs
    speeds: list[Speed]
    beside: float | None  # what an iteration takes while another rank trains for itself on this machine, over what it takes alone
    checks: list[Check]

    def network(self, name: Network) -> NetworkCount:
        return next(network for network in self.networks if network.network == name)

    def head(self) -> str:
        """What was measured on what, and how to read the tables."""
        settings = ", ".join(f"{field} {value}" for field, value in self.changed.items()) or "the defaults"
        return "\n".join([*self.origin(), f"settings: {settings}; global batch {self.settings['train']['batch_size']}"])

    def tables(self) -> str:
        """Everything, each kind under a heading that says how to read it."""
        parts = [_points(self.points), _lines(self.points), _networks(self.networks), _all_reduces(self.all_reduces), _costs(self.costs)]
        parts += [_speeds(self.speeds)] if self.speeds else []
        parts += [_checks(self.checks, self.beside)] if self.checks else []
        return "\n\n".join(parts)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _points(points: Sequence[BatchPoint]) -> str:
    head = ["images a step", "iteration", "discriminator", "penalty", "generator", "average", "feed", "jitter"]
    fields = ("iteration", "discriminator", "penalty", "generator", "average", "feed")
    lines = [[str(point.batch), *(_ms(getattr(point, field)) for field in fields), f"{100 * point.jitter:.1f} %"] for point in points]
    return table("one rank: median ms of an iteration, and of one step or penalty in it", [head, *lines], {1}, left=0)


def _lines(points: Sequence[BatchPoint]) -> str:
    head = ["", "ms", "us an image", "furthest point"]
    lines = []
    for part in ("discriminator", "penalty", "generator"):
        measured = [(point.batch, seconds) for point in points if (seconds := getattr(point, part)) is not None]
        if not measured:
            continue
        line = Line.fit(measured)
        furthest = max((line(batch) / seconds - 1 for batch, seconds in measured), key=abs)
        lines.append([part, f"{1000 * line.fixed:.2f}", f"{1e6 * line.each:.1f}", f"{100 * furthest:+.1f} %"])
    return table("the lines through these points: so many ms, and so many more an image", [head, *lines], {1}, left=1)


def _networks(networks: Sequence[NetworkCount]) -> str:
    head = ["network", "parameters", "tensors", "MB of each bucket", "small exchanges a step", "bytes of each", "backward"]
    lines = [
        [
            one.network,
            f"{one.parameters:,}",
            str(one.tensors),
            " + ".join(_buckets(one.bucket_bytes)),
            str(one.small_exchanges),
            f"{one.small_bytes:.0f}",
            f"{100 * one.backward_share:.0f} %",
        ]
        for one in networks
    ]
    return table("exchanged in a step, counted; backward: the share of a step that can hide an exchange", [head, *lines], {1}, left=1)


def _buckets(sizes: Sequence[float]) -> list[str]:
    """['2 x 1.500', '0.250'] for [1.5e6, 1.5e6, 0.25e6]."""
    runs = [(text, len(list(run))) for text, run in groupby(f"{size / 1e6:.3f}" for size in sizes)]
    return [f"{count} x {text}" if count > 1 else text for text, count in runs]


def _all_reduces(all_reduces: Sequence[AllReduce]) -> str:
    head = ["ranks", "device", "bytes", "ms", "GB/s"]
    lines = [
        [str(one.ranks), one.device, f"{one.bytes:,}", f"{1000 * one.seconds:.3f}", f"{one.bytes / one.seconds / 1e9:.3f}"]
        for one in all_reduces
    ]
    for ranks, device in dict.fromkeys((one.ranks, one.device) for one in all_reduces):
        line = Line.fit([(one.bytes, one.seconds) for one in all_reduces if (one.ranks, one.device) == (ranks, device)])
        lines.append([str(ranks), device, f"the line: {1000 * line.fixed:.3f} ms, then {1 / line.each / 1e9:.3f} GB/s"])
    rules = {number + 1 for number, line in enumerate(lines) if number == 0 or lines[number - 1][:2] != line[:2]}
    return table("an all-reduce here: median", [head, *lines], rules)


def _costs(costs: Costs) -> str:
    lines = [
        ["", "takes"],
        ["checkpoint", f"{costs.checkpoint_bytes / 1e6:.2f} MB in {_ms(costs.checkpoint_seconds)} ms"],
        ["start to the end of the first iteration", f"{costs.start_seconds:.1f} s"],
        ["pictures", f"{_ms(costs.grid_seconds)} ms"],
        ["log line, with 2 ranks", f"{_ms(costs.log_line_seconds)} ms, {costs.log_line_rounds:g} rounds on a ring"],
        ["in an iteration, about stopping", f"{costs.vote_rounds:g} rounds on a ring"],
        ["noise of an image, in a step", f"{1e6 * costs.draw_seconds_per_image:.2f} us"],
        ["a sample in its shard", f"{costs.bytes_per_sample:.0f} bytes, read and decoded in {1e6 * costs.read_seconds_per_sample:.0f} us"],
        ["samples", f"{costs.samples:,}"],
    ]
    return table("beside the iterations", lines, {1}, left=1)


def _speeds(speeds: Sequence[Speed]) -> str:
    head = ["ranks", "batch", "ms", "quartiles", "img/s"]
    lines = [
        [
            str(one.ranks),
            str(one.batch),
            f"{one.median_ms:.1f}",
            f"{one.quartiles_ms[0]:.1f} to {one.quartiles_ms[1]:.1f}",
            f"{one.images_per_second:.0f}",
        ]
        for one in speeds
    ]
    rules = {number + 1 for number, one in enumerate(speeds) if number == 0 or speeds[number - 1].ranks != one.ranks}
    return table("an iteration of the real trainer: median and quartiles, all of these in turns", [head, *lines], rules, left=0)


def _checks(checks: Sequence[Check], beside: float | None) -> str:
    head = ["ranks", "batch", "measured ms", "predicted ms", "ratio", "beside another ms", "ratio"]
    lines = [
        [
            str(one.ranks),
            str(one.batch),
            f"{one.measured_ms:.1f}",
            f"{one.predicted_ms:.1f}",
            f"{one.ratio:.2f}",
            "-" if one.predicted_beside_ms is None else f"{one.predicted_beside_ms:.1f}",
            "-" if one.predicted_beside_ms is None else f"{one.predicted_beside_ms / one.measured_ms:.2f}",
        ]
        for one in checks
    ]
    title = "predicted from one rank and the all-reduces"
    if beside is not None:
        title += f"; beside another that trains for itself, one rank takes {beside:.2f} times as long"
    return table(title, [head, *lines], {1}, left=0)
