"""One place that everything measured goes through: every rank's exporter; on rank 0 log.jsonl and the progress bar."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from distgan.data.reading.samples import ReadStatistics
from distgan.data.shards.damage import Skip
from distgan.distributed import World
from distgan.metrics.flops import FlopCount
from distgan.metrics.interval import Interval
from distgan.metrics.log import RunLog
from distgan.metrics.memory import memory_bytes
from distgan.metrics.meter import Meter
from distgan.metrics.moment import renew_zero
from distgan.metrics.progress import Progress
from distgan.metrics.prometheus import Exporter
from distgan.metrics.stopwatch import Stopwatch
from distgan.metrics.traffic import Traffic, totals
from distgan.phases import Statistics
from distgan.state import TrainState

_ITERATION = "iteration"  # its name at the stopwatch, beside those of the phases


class Reporter:
    """Collects the statistics of a run and tells them. Nothing waits for a GPU but `interval`.

    Args:
        log: log.jsonl; rank 0 appends a line per interval and per event.
        total_images: where the run ends.
        peak_flops_per_second: of the device; None: not known.
    """

    def __init__(
        self,
        world: World,
        exporter: Exporter,
        log: Path,
        state: TrainState,
        total_images: float,
        traffic: Traffic,
        peak_flops_per_second: float | None,
    ) -> None:
        self._world, self._exporter, self._state = world, exporter, state
        self._log, self._progress = RunLog(log), Progress(state, total_images, shows=world.is_main)
        self._meter, self._stopwatch, self._flops = Meter(world), Stopwatch(world.device), FlopCount()
        self._traffic = traffic
        traffic.flush()  # what an engine sends at its start belongs to no interval
        self._peak_flops_per_second = peak_flops_per_second
        exporter.run_images.set(state.num_images)
        exporter.run_target_images.set(total_images)
        self._begin_interval()

    def _begin_interval(self) -> None:
        renew_zero(self._world.device)
        self._num_images_before, self._flops_before = self._state.num_images, self._flops.total
        self._data_wait_seconds = 0.0

    def add(self, statistics: Statistics) -> None:
        """Statistics of a phase; see `Meter.add`."""
        self._meter.add(statistics)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time and exchanges within this are the phase's. Wait for data outside."""
        with self._traffic.during(name), self._stopwatch.during(name):
            yield

    def call(self, *kind: object) -> AbstractContextManager[None]:
        """Within this runs a call of a network; see `FlopCount.call`."""
        return self._flops.call(*kind)

    def iterating(self) -> AbstractContextManager[None]:
        """Within this runs an iteration, phases and waits for data together."""
        return self._stopwatch.during(_ITERATION)

    def iteration(self, seconds: float, data: ReadStatistics) -> None:
        """An iteration ended; it took `seconds` as the host sees it, and `data` was read for it."""
        self._exporter.images.inc(self._state.images_per_iteration / self._world.size)
        self._exporter.run_images.set(self._state.num_images)
        self._exporter.step_seconds.observe(seconds)
        self._exporter.data(data)
        self._exporter.last_step.set(time.time())
        self._data_wait_seconds += data.wait_seconds
        self._progress.iteration()

    def interval(self) -> None:
        """End a log interval and tell of it. Collective."""
        interval = self._measured()
        self._exporter.interval(interval)
        if self._world.is_main and interval.num_images:
            position = {
                "num_images": self._state.num_images,
                "iteration": self._state.iteration,
                "train_seconds": round(self._state.train_seconds, 3),
            }
            self._log.write(position | {name: _rounded(value) for name, value in interval.record().items()})
            self._progress.interval(interval)
        self._begin_interval()

    def _measured(self) -> Interval:
        means = self._meter.flush()
        phase_seconds = self._stopwatch.flush()
        num_images = self._state.num_images - self._num_images_before
        iterations = num_images // self._state.images_per_iteration
        steps = {"generator": iterations, "discriminator": iterations * self._state.discriminator_steps}
        return Interval(
            num_images=num_images,
            num_ranks=self._world.size,
            seconds=max(phase_seconds.pop(_ITERATION, 0.0), 1e-9),
            data_wait_seconds=self._data_wait_seconds,
            phase_seconds=phase_seconds,
            exchanged=totals(self._traffic.flush()),
            flops=self._flops.total - self._flops_before,
            peak_flops_per_second=self._peak_flops_per_second,
            memory_bytes=memory_bytes(self._world.device),
            means=means,
            num_skipped_steps=sum(round(means.get(f"{network}_skipped_share", 0) * number) for network, number in steps.items()),
        )

    def event(self, name: str, **values: object) -> None:
        """Append {"event": name, ...} to the log (rank 0)."""
        if self._world.is_main:
            self._log.write({"event": name, "num_images": self._state.num_images, **values})

    def skipped(self, skip: Skip) -> None:
        """A damaged sample was replaced by another one (rank 0)."""
        self.event("skip", shard=skip.shard, key=skip.key, reason=skip.reason)
        self.say(f"warning: skipped: {skip.reason}")

    def say(self, text: str) -> None:
        """Print a line for the person who watches (rank 0)."""
        self._progress.say(text)

    def close(self) -> None:
        """Leave the progress bar."""
        self._progress.close()


def _rounded(value: float) -> float | None:
    """Six significant digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
