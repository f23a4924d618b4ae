"""The metrics of one rank, served over HTTP for Prometheus. Base units; a rank's counters are its own: sum them over ranks."""

import contextlib
import sys
from collections.abc import Iterator

import prometheus_client
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import distgan
from distgan.data.reading.samples import REASONS, ReadStatistics

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CHECKPOINT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Exporter:
    """The metrics as attributes; `serving` opens the port."""

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
        self.phase_seconds = Counter("distgan_phase_seconds", "Time spent in a phase, as the host sees it", ["phase"], registry=registry)
        self.collective_bytes = Counter(
            "distgan_collective_bytes", "Bytes this rank sends, were each exchange done on a ring", ["phase"], registry=registry
        )
        self.collective_seconds = Counter(
            "distgan_collective_seconds", "Time with an exchange under way, waits for other ranks included", ["phase"], registry=registry
        )
        self.images_per_second = Gauge("distgan_images_per_second", "This rank's images/s over the last log interval", registry=registry)
        self.discriminator_loss = Gauge("distgan_discriminator_loss", "Mean over all ranks and the last log interval", registry=registry)
        self.generator_loss = Gauge("distgan_generator_loss", "Mean over all ranks and the last log interval", registry=registry)
        self.gradient_norm = Gauge("distgan_gradient_norm", "Mean over the last log interval", ["network"], registry=registry)
        self.nonfinite = Counter(
            "distgan_nonfinite", "Steps skipped for a gradient that was not finite (all ranks alike)", registry=registry
        )
        self.last_step = Gauge("distgan_last_step_timestamp_seconds", "Unix time of the last iteration", registry=registry)
        self.checkpoint_seconds = Histogram("distgan_checkpoint_seconds", "Time of a save", buckets=CHECKPOINT_BUCKETS, registry=registry)
        self.last_checkpoint = Gauge(
            "distgan_last_checkpoint_timestamp_seconds", "Unix time of the last save; 0: none yet, or another rank saves", registry=registry
        )
        self.checkpoint_failures = Counter("distgan_checkpoint_failures", "Saves that failed", registry=registry)
        Counter("distgan_restarts", "Restarts of the worker group by its agent", registry=registry).inc(restarts)
        build = Gauge("distgan_build_info", "Versions, as labels", ["version", "torch"], registry=registry)
        build.labels(distgan.__version__, torch.__version__).set(1)

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
