"""What `python -m distgan.bench scaling` measured, as the model takes it."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from distgan.bench.scaling.report import AllReduce, BatchPoint, NetworkCount, ScalingReport
from distgan.errors import InputError
from distgan.planning.collectives import Topology
from distgan.planning.figures import Figures, Line, NetworkFigures

_MAKE_ONE = "make one with python -m distgan.bench scaling --out FILE"


def read(path: Path) -> ScalingReport:
    """The report in a file.

    Raises:
        InputError: it cannot be read, or is not a whole report of that benchmark.
    """
    try:
        return ScalingReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"--measured is {str(path)!r}, which cannot be read ({error.strerror}); {_MAKE_ONE}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise InputError(
            f"--measured is {str(path)!r}, which is no whole report of that benchmark ({where}: {message}{more}); {_MAKE_ONE}."
        ) from None


def figures_of(report: ScalingReport) -> Figures:
    """The lines through the report's points, and the rest of it as it is."""
    points, costs = report.points, report.costs
    batch_size = report.settings["train"]["batch_size"]
    host = line_through([one for one in report.all_reduces if one.device == "cpu"], ranks_of(report)[0])
    return Figures(
        on_cpu=report.device == "cpu",
        batches=(min(one.batch for one in points), max(one.batch for one in points)),
        discriminator_seconds=Line.fit([(one.batch, one.discriminator) for one in points]),
        penalty_seconds=Line.fit([(one.batch, one.penalty) for one in points if one.penalty is not None]) if points[0].penalty else None,
        generator_seconds=Line.fit([(one.batch, one.generator) for one in points]),
        average_seconds=sum(one.average for one in points) / len(points),
        feed_seconds=Line.fit([(one.batch, _without_noise(one, report)) for one in points]),
        draw_seconds_per_image=costs.draw_seconds_per_image,
        jitter=next((one for one in points if one.batch == batch_size), points[-1]).jitter,
        discriminator=_network(report.network("discriminator")),
        generator=_network(report.network("generator")),
        checkpoint_bytes=costs.checkpoint_bytes,
        checkpoint_seconds=costs.checkpoint_seconds,
        start_seconds=costs.start_seconds,
        grid_seconds=costs.grid_seconds,
        log_line_seconds=costs.log_line_seconds,
        log_line_rounds=costs.log_line_rounds,
        vote_rounds=costs.vote_rounds,
        host_step_seconds=host.fixed / (2 * (ranks_of(report)[0] - 1)),
        bytes_per_sample=costs.bytes_per_sample,
        read_seconds_per_sample=costs.read_seconds_per_sample,
        num_samples=costs.samples,
    )


def ranks_of(report: ScalingReport) -> list[int]:
    """The numbers of ranks that exchanged something, from the least."""
    return sorted({one.ranks for one in report.all_reduces})


def line_through(all_reduces: Sequence[AllReduce], ranks: int) -> Line:
    """The seconds of an all-reduce on so many ranks, by its bytes."""
    return Line.fit([(one.bytes, one.seconds) for one in all_reduces if one.ranks == ranks])


def topology_here(report: ScalingReport, ranks: int) -> Topology:
    """The machine that was measured, with so many ranks in a ring."""
    line = line_through([one for one in report.all_reduces if one.device == report.device], ranks)
    steps = 2 * (ranks - 1)
    bandwidth = steps / ranks / line.each
    return Topology(ranks, bandwidth, line.fixed / steps, bandwidth, line.fixed / steps, 0.0)


def _without_noise(point: BatchPoint, report: ScalingReport) -> float:
    """What is left of the time between the phases without drawing noise, which goes by blocks. (A GPU computes meanwhile.)

    It was measured apart, and may come out as more than all of it.
    """
    noise = report.costs.draw_seconds_per_image * point.batch if report.device == "cpu" else 0.0
    return max(point.feed - noise, 0.1 * point.feed)


def _network(count: NetworkCount) -> NetworkFigures:
    return NetworkFigures(
        num_parameters=count.parameters,
        num_tensors=count.tensors,
        buffer_bytes=count.buffer_bytes,
        bucket_bytes=tuple(count.bucket_bytes),
        num_small_exchanges=count.small_exchanges,
        small_bytes=count.small_bytes,
        backward_share=count.backward_share,
    )
