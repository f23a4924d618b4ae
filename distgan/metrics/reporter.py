"""One place that everything measured goes through: every rank's exporter; on rank 0 log.jsonl and the progress bar."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from distgan.data.reading.samples import ReadStatistics
from distgan.data.shards.damage import Skip
from distgan.distributed import World
from distgan.metrics.meter import Meter
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Total, Traffic, totals
from distgan.phases import Statistics
from distgan.state import TrainState


class Reporter:
    """Collects the statistics of a run and tells them.

    Args:
        log: log.jsonl; rank 0 appends a line per interval and per event.
        total_images: where the progress bar ends.
    """

    def __init__(self, world: World, exporter: Exporter, log: Path, state: TrainState, total_images: float, traffic: Traffic) -> None:
        self._world, self._exporter, self._log, self._state = world, exporter, log, state
        self._meter = Meter(world)
        self._traffic = traffic
        traffic.flush()  # what an engine sends at its start belongs to no interval
        self._total_images = total_images
        self._bar = None
        if world.is_main and _is_wide_terminal(sys.stderr):
            iterations = math.ceil(total_images / state.images_per_iteration)
            self._bar = tqdm(
                total=iterations * state.images_per_iteration, initial=state.num_images, unit="img", unit_scale=True, dynamic_ncols=True
            )
        self._begin_interval()

    def _begin_interval(self) -> None:
        self._interval_images = self._state.num_images
        self._interval_seconds = 0.0
        self._interval_wait_seconds = 0.0

    def add(self, statistics: Statistics) -> None:
        """Statistics of a phase; see `Meter.add`."""
        self._meter.add(statistics)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time, as the host sees it, and exchanges within this are the phase's."""
        begin = time.perf_counter()
        with self._traffic.during(name):
            yield
        self._exporter.phase_seconds.labels(name).inc(time.perf_counter() - begin)

    def iteration(self, seconds: float, data: ReadStatistics) -> None:
        """An iteration ended; it took `seconds`, and `data` was read for it."""
        images = self._state.images_per_iteration
        self._exporter.images.inc(images / self._world.size)
        self._exporter.step_seconds.observe(seconds)
        self._exporter.data(data)
        self._exporter.last_step.set(time.time())
        self._interval_seconds += seconds
        self._interval_wait_seconds += data.wait_seconds
        if self._bar is not None:
            self._bar.update(images)

    def interval(self) -> dict[str, float]:
        """End a log interval and tell its means, which are returned. Collective."""
        means = self._meter.flush()
        seconds = max(self._interval_seconds, 1e-9)
        images = self._state.num_images - self._interval_images
        speed = {"images_per_second": images / seconds, "data_wait_share": self._interval_wait_seconds / seconds}
        exchanged = totals(self._traffic.flush())
        self._export(means, speed, exchanged, images // self._state.images_per_iteration)
        if self._world.is_main and images:
            position = {
                "num_images": self._state.num_images,
                "iteration": self._state.iteration,
                "train_seconds": round(self._state.train_seconds, 3),
            }
            collectives = {
                f"{phase}_collective_{unit}": value
                for phase, total in sorted(exchanged.items())
                for unit, value in (("bytes", total.sent_bytes), ("seconds", total.seconds))
            }
            self._write(position | {name: _rounded(value) for name, value in (speed | means | collectives).items()})
            self._show(speed | means)
        self._begin_interval()
        return means

    def event(self, name: str, **values: object) -> None:
        """Append {"event": name, ...} to the log (rank 0)."""
        if self._world.is_main:
            self._write({"event": name, "num_images": self._state.num_images, **values})

    def skipped(self, skip: Skip) -> None:
        """A damaged sample was replaced by another one (rank 0)."""
        self.event("skip", shard=skip.shard, key=skip.key, reason=skip.reason)
        self.say(f"warning: skipped: {skip.reason}")

    def say(self, text: str) -> None:
        """Print a line for the person who watches (rank 0), past the progress bar."""
        if self._world.is_main:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _export(self, means: dict[str, float], speed: dict[str, float], exchanged: dict[str, Total], iterations: int) -> None:
        for phase, total in exchanged.items():
            self._exporter.collective_bytes.labels(phase).inc(total.sent_bytes)
            self._exporter.collective_seconds.labels(phase).inc(total.seconds)
        self._exporter.images_per_second.set(speed["images_per_second"] / self._world.size)
        for name, gauge in (("discriminator_loss", self._exporter.discriminator_loss), ("generator_loss", self._exporter.generator_loss)):
            if name in means:
                gauge.set(means[name])
        for network in ("generator", "discriminator"):
            if f"{network}_gradient_norm" in means:
                self._exporter.gradient_norm.labels(network).set(means[f"{network}_gradient_norm"])
        steps = {"generator": iterations, "discriminator": iterations * self._state.discriminator_steps}
        self._exporter.nonfinite.inc(sum(round(means.get(f"{network}_skipped_share", 0) * number) for network, number in steps.items()))

    def _write(self, record: Mapping[str, object]) -> None:
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _show(self, values: dict[str, float]) -> None:
        discriminator, generator = (values.get(f"{name}_loss", float("nan")) for name in ("discriminator", "generator"))
        shown = f"data wait {values['data_wait_share']:.1%}, loss D {discriminator:.3f}, loss G {generator:.3f}"
        if self._bar is not None:
            self._bar.set_postfix_str(shown)  # it shows the images/s itself
        else:
            kimg = f"{self._state.num_images / 1000:g}/{self._total_images / 1000:g} kimg"
            self.say(f"{kimg}, img/s {values['images_per_second']:.0f}, {shown}")


def _is_wide_terminal(stream: TextIO) -> bool:
    """Whether a progress bar would show: some terminals (of containers, say) are zero columns wide."""
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0


def _rounded(value: float) -> float | None:
    """Six significant digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
