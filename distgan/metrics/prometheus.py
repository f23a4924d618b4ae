"""The metrics of one rank, served over HTTP for Prometheus. Base units; a rank's counters are its own: sum them over ranks."""

import contextlib
import sys
from collections.abc import Iterator

import prometheus_client
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import distgan
from distgan.data.reading.samples import REASONS, ReadStatistics
from distgan.metrics.interval import Interval

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CHECKPOINT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
PHASES = ("discriminator", "generator", "average")  # of an iteration; the last is the update of the moving average


class Exporter:
    """The metrics; `serving` opens the port.

    Args:
        restarts: how often the run was begun again.
    """

    def __init__(self, restarts: int) -> None:
        self.registry = registry = CollectorRegistry()
        self.images = Counter("distgan_images", "Real images that this rank has trained on", registry=registry)
        self.step_seconds = Histogram("distgan_step_seconds", "Time of an iteration", buckets=STEP_BUCKETS, registry=registry)
        self._data_wait_seconds = Counter("distgan_data_wait_seconds", "Time spent waiting for data", registry=registry)
        self._data_samples = Counter("distgan_data_samples", "Samples read", registry=registry)
        self._data_bytes = Counter("distgan_data_bytes", "Bytes of samples read", registry=registry)
        self._data_read_seconds = Counter("distgan_data_read_seconds", "Time of reading and checking, over all workers", registry=registry)
        self._data_decode_seconds = Counter("distgan_data_decode_seconds", "Time of decoding, over all workers", registry=registry)
        self._cache_hits = Counter("distgan_cache_hits", "Samples of remote shards that came from the cache", registry=registry)
        self._cache_misses = Counter("distgan_cache_misses", "Samples of remote shards that were read by ranges", registry=registry)
        self._skipped_samples = Counter("distgan_skipped_samples", "Damaged samples replaced by others", ["reason"], registry=registry)
        for reason in REASONS:
            self._skipped_samples.labels(reason)  # a counter that is not there yet raises no alert when it begins
        self._phase_seconds = Counter("distgan_phase_seconds", "Time of a phase on the device", ["phase"], registry=registry)
        for phase in PHASES:
            self._phase_seconds.labels(phase)
        self._collective_bytes = Counter(
            "distgan_collective_bytes", "Bytes this rank sends, were each exchange done on a ring", ["phase"], registry=registry
        )
        self._collective_seconds = Counter(
            "distgan_collective_seconds", "Time with an exchange under way, waits for other ranks included", ["phase"], registry=registry
        )
        self._model_flops = Counter(
            "distgan_model_flops", "Operations of this rank's networks; a multiply and an add are two", registry=registry
        )
        self._mfu = Gauge("distgan_mfu_ratio", "Share of the device's peak over the last log interval", registry=None)
        self._memory_bytes = Gauge("distgan_memory_bytes", "Memory of this rank at the last log line", ["kind"], registry=registry)
        self._images_per_second = Gauge("distgan_images_per_second", "This rank's images/s over the last log interval", registry=registry)
        self.run_images = Gauge("distgan_run_images", "Real images so far, over all ranks and sittings", registry=registry)
        self.run_target_images = Gauge("distgan_run_target_images", "Real images at which the run ends", registry=registry)
        mean = "Mean over all ranks and the last log interval"
        self._discriminator_loss = Gauge("distgan_discriminator_loss", mean, registry=registry)
        self._generator_loss = Gauge("distgan_generator_loss", mean, registry=registry)
        self._gradient_penalty = Gauge("distgan_gradient_penalty", f"{mean} in which one was due", registry=None)
        self._logit = Gauge("distgan_logit", mean, ["images"], registry=registry)
        self._gradient_norm = Gauge("distgan_gradient_norm", "Mean over the last log interval", ["network"], registry=registry)
        self._nonfinite = Counter(
            "distgan_nonfinite", "Steps skipped for a gradient that was not finite (all ranks alike)", registry=registry
        )
        self.last_step = Gauge("distgan_last_step_timestamp_seconds", "Unix time of the last iteration", registry=registry)
        self.checkpoint_seconds = Histogram("distgan_checkpoint_seconds", "Time of a save", buckets=CHECKPOINT_BUCKETS, registry=registry)
        self.last_checkpoint = Gauge(
            "distgan_last_checkpoint_timestamp_seconds", "Unix time of the last save; 0: none yet, or another rank saves", registry=registry
        )
        self.checkpoint_failures = Counter("distgan_checkpoint_failures", "Saves that failed", registry=registry)
        Counter("distgan_restarts", "How often the run was begun again, the same on every rank", registry=registry).inc(restarts)
        build = Gauge("distgan_build_info", "Versions, as labels", ["version", "torch"], registry=registry)
        build.labels(distgan.__version__, torch.__version__).set(1)
        self._late = {self._mfu, self._gradient_penalty}

    def data(self, statistics: ReadStatistics) -> None:
        """Count what was read."""
        self._data_wait_seconds.inc(statistics.wait_seconds)
        self._data_samples.inc(statistics.samples)
        self._data_bytes.inc(statistics.bytes)
        self._data_read_seconds.inc(statistics.read_seconds)
        self._data_decode_seconds.inc(statistics.decode_seconds)
        self._cache_hits.inc(statistics.cache_hits)
        self._cache_misses.inc(statistics.cache_misses)
        for reason, count in statistics.skipped.items():
            self._skipped_samples.labels(reason).inc(count)

    def interval(self, interval: Interval) -> None:
        """Tell what was measured in a log interval."""
        for phase, seconds in interval.phase_seconds.items():
            self._phase_seconds.labels(phase).inc(seconds)
        for phase, total in interval.exchanged.items():
            self._collective_bytes.labels(phase).inc(total.sent_bytes)
            self._collective_seconds.labels(phase).inc(total.seconds)
        self._model_flops.inc(interval.flops)
        self._nonfinite.inc(interval.num_skipped_steps)
        for kind, held in interval.memory_bytes.items():
            self._memory_bytes.labels(kind).set(held)
        if interval.num_images:
            self._images_per_second.set(interval.images_per_second / interval.num_ranks)
            self._set_late(self._mfu, interval.mfu)
        means = interval.means
        self._set_late(self._gradient_penalty, means.get("penalty"))
        for name, gauge in (("discriminator_loss", self._discriminator_loss), ("generator_loss", self._generator_loss)):
            if name in means:
                gauge.set(means[name])
        for images in ("real", "fake"):
            if f"{images}_logit" in means:
                self._logit.labels(images).set(means[f"{images}_logit"])
        for network in ("generator", "discriminator"):
            if f"{network}_gradient_norm" in means:
                self._gradient_norm.labels(network).set(means[f"{network}_gradient_norm"])

    def _set_late(self, gauge: Gauge, value: float | None) -> None:
        """A gauge is served from its registration on, at first as 0: one that may stay unknown waits until it is known."""
        if value is None:
            return
        gauge.set(value)
        if gauge in self._late:
            self._late.remove(gauge)
            self.registry.register(gauge)

    @contextlib.contextmanager
    def serving(self, host: str, port: int) -> Iterator[None]:
        """Serve on host:port (0: not at all) from a thread; a port that cannot be had is a warning, not the end of a run."""
        server, thread = None, None
        if port:
            try:
                server, thread = prometheus_client.start_http_server(port, host, self.registry)
            except OSError as error:
                print(
                    f"warning: metrics.port: {host}:{port} cannot be served ({error.strerror}); the run goes on without. "
                    "Set metrics.port to a free one.",
                    file=sys.stderr,
                )
        try:
            yield
        finally:
            if server is not None and thread is not None:
                server.shutdown()
                server.server_close()
                thread.join()
