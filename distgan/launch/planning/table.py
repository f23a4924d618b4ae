"""Predictions as a table."""

from collections.abc import Sequence

from distgan.bench.table import table
from distgan.planning.model import Prediction

_TITLE = "ms of an iteration and what they go to; GB/s of a node to others, and of the data in all; what checkpoints and failures leave"
_HEAD = [
    *("GPUs", "nodes", "batch/GPU", "ms", "compute", "exchange", "small", "wait", "other", "img/s", "effic."),
    *("net", "data", "save s", "every kimg", "goodput", "days"),
]


def text(predictions: Sequence[Prediction]) -> str:
    """A line for each."""
    return table(_TITLE, [_HEAD, *(_line(one) for one in predictions)], {1}, left=0)


def _line(one: Prediction) -> list[str]:
    parts = one.iteration
    columns = (
        parts.seconds,
        parts.images + parts.overhead + parts.noise,
        parts.exchange,
        parts.small_exchanges,
        parts.straggling,
        parts.reporting + parts.votes + parts.data,
    )
    return [
        f"{one.num_gpus:,}",
        f"{one.num_nodes:,}",
        f"{one.batch_per_gpu:,.0f}",
        *(_short(1000 * seconds) for seconds in columns),
        f"{one.images_per_second:,.0f}",
        f"{100 * one.efficiency:.0f} %",
        _short(one.network_bandwidth / 1e9),
        _short(one.storage_bandwidth / 1e9),
        _short(one.checkpoint_seconds),
        _kimg(one.interval_kimg),
        f"{100 * one.goodput:.1f} %",
        _short(one.days),
    ]


def _short(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    if value < 0.0005:
        return "<0.001"
    return f"{value:.3f}" if value < 1 else f"{value:.3g}"


def _kimg(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
