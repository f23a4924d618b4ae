"""Statistics as people read them in a terminal."""

from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from distgan.data.inspection.classes import Class
from distgan.data.inspection.findings import printable
from distgan.data.inspection.statistics import Statistics

QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
MAX_BARS = 40  # of one histogram
_BAR_WIDTH = 40
_NAME_WIDTH = 30
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


def section(title: str, lines: Iterable[str]) -> list[str]:
    """An empty line, a title, and lines that are set off."""
    return ["", title, *(f"  {line}".rstrip() for line in lines)]


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values, the values below each other."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def of_classes(classes: Sequence[Class], num_unlabelled: int) -> list[str]:
    """A bar for each class; of many, the largest and the smallest."""
    label_width = len(str(classes[-1].label))
    names = [f"{one.label:{label_width}} {printable(one.name or '')[:_NAME_WIDTH]}".rstrip() for one in classes]
    bars = list(zip(names, [one.num_samples for one in classes], strict=True))
    more = [("no label", num_unlabelled)] if num_unlabelled else []
    if len(bars) + len(more) <= MAX_BARS:
        return _bars(bars + more)
    bars.sort(key=lambda bar: -bar[1])
    half = MAX_BARS // 2
    lines = _bars([*bars[:half], *bars[-half:], *more])
    return [*lines[:half], f"... {len(bars) - 2 * half:,} classes in between ...", *lines[half:]]


def of_sizes(statistics: Statistics) -> list[str]:
    """The commonest sizes, and, where there are many, quantiles of width and height."""
    commonest = statistics.sizes.most_common(MAX_BARS // 4)
    bars = [(f"{width}x{height}", number) for (width, height), number in commonest]
    rest = statistics.sizes.total() - sum(number for _, number in commonest)
    if not rest:
        return _bars(bars)
    others = f"{len(statistics.sizes) - len(commonest):,} others"
    quantiles = [(name, [f"{value:,.0f}" for value in values]) for name, values in quantiles_of_sizes(statistics).items()]
    return [*_bars([*bars, (others, rest)]), "", *_table([("", [_percent(share) for share in QUANTILES]), *quantiles])]


def quantiles_of_sizes(statistics: Statistics) -> dict[str, list[float]]:
    """QUANTILES of the images' widths and heights in pixels."""
    sizes = np.array(list(statistics.sizes))
    counts = np.array(list(statistics.sizes.values()))
    return {name: _quantiles(sizes[:, axis], counts) for axis, name in enumerate(("width", "height"))}


def quantiles_of_bytes(statistics: Statistics) -> list[float]:
    """QUANTILES of the images' bytes."""
    return np.quantile(statistics.bytes, QUANTILES).tolist()


def of_bytes(statistics: Statistics) -> list[str]:
    """Quantiles and mean."""
    values = [*quantiles_of_bytes(statistics), float(statistics.bytes.mean())]
    return _table([("", [*map(_percent, QUANTILES), "mean"]), ("", [tqdm.format_sizeof(value, "B") for value in values])])


def of_pixels(statistics: Statistics) -> list[str]:
    """Mean and standard deviation of each channel."""
    pixels = statistics.pixels
    rows = zip(CHANNELS[pixels.histogram.shape[1]], pixels.mean(), pixels.std(), strict=True)
    return _table([("", ["mean", "std"]), *((name, [f"{mean:.4f}", f"{std:.4f}"]) for name, mean, std in rows)])


def kinds(counts: Sequence[tuple[str, int]]) -> str:
    """'PNG', or 'PNG 1,000, JPEG 20'."""
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{name} {number:,}" for name, number in counts)


def _quantiles(values: np.ndarray, counts: np.ndarray) -> list[float]:
    """Of values that occur so often: the smallest of which at least that share is no larger."""
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) / counts.sum()
    return values[order][np.searchsorted(shares, QUANTILES)].tolist()


def _bars(rows: Sequence[tuple[str, int]]) -> list[str]:
    name_width = max(len(name) for name, _ in rows)
    number_width = max(len(f"{number:,}") for _, number in rows)
    longest = max(1, *(number for _, number in rows))
    bars = ["#" * max(round(number * _BAR_WIDTH / longest), number > 0) for _, number in rows]
    return [f"{name:{name_width}}  {number:{number_width},}  {bar}".rstrip() for (name, number), bar in zip(rows, bars, strict=True)]


def _table(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    name_width = max(len(name) for name, _ in rows)
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(rows[0][1]))]
    names = [[name.ljust(name_width)] if name_width else [] for name, _ in rows]
    return [
        "  ".join([*name, *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, (_, cells) in zip(names, rows, strict=True)
    ]


def _percent(share: float) -> str:
    return {0: "least", 0.5: "median", 1: "most"}.get(share, f"{100 * share:g} %")
