"""What a run tells: names and values on a real HTTP port, log.jsonl, and that a taken port ends nothing."""

import json
import socket
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from distgan.bench.ranks import free_port
from distgan.data.reading.samples import ReadStatistics
from distgan.distributed import World
from distgan.metrics.meter import Meter
from distgan.metrics.prometheus import Exporter
from distgan.metrics.reporter import Reporter
from distgan.metrics.traffic import Traffic
from distgan.state import TrainState

WORLD = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TWO_RANKS_MAIN = World(rank=0, size=2, local_rank=0, device=torch.device("cpu"))


def _scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value for sample in samples}


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(restarts=2)


def test_everything_measured_is_served_under_its_name(exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, traffic = [0.0], Traffic()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    state = TrainState(batch_size=8, discriminator_steps=2)
    reporter = Reporter(WORLD, exporter, tmp_path / "log.jsonl", state, 1000, traffic)
    port = free_port()
    with exporter.serving("127.0.0.1", port):
        for _ in range(4):
            reporter.add({"discriminator_loss": torch.tensor(1.5), "generator_loss": torch.tensor(0.5)})
            reporter.add({"generator_gradient_norm": torch.tensor(3.0), "generator_skipped_share": torch.tensor(0.0)})
            reporter.add({"discriminator_gradient_norm": torch.tensor(4.0), "discriminator_skipped_share": torch.tensor(0.25)})
            with reporter.phase("generator"):
                now[0] += 0.125
            with traffic.during("generator"):
                traffic.count("all_reduce", torch.empty(0), 100.0, lambda: now.__setitem__(0, now[0] + 0.0625))
            state.iteration += 1
            reporter.iteration(seconds=0.5, data=ReadStatistics(16, 4000, 0.25, 0.75, 0.125, 10, 6, Counter({"checksum": 1})))
        reporter.interval()
        with exporter.checkpoint_seconds.time():
            pass
        exporter.checkpoint_failures.inc()
        scraped = _scrape(port)
    expected = {
        "distgan_images_total": 64,
        "distgan_step_seconds_count": 4,
        "distgan_step_seconds_sum": 2.0,
        "distgan_data_wait_seconds_total": 0.5,
        "distgan_data_samples_total": 64,
        "distgan_data_bytes_total": 16000,
        "distgan_data_read_seconds_total": 1.0,
        "distgan_data_decode_seconds_total": 3.0,
        "distgan_cache_hits_total": 40,
        "distgan_cache_misses_total": 24,
        "distgan_skipped_samples_total{checksum}": 4,
        "distgan_skipped_samples_total{shard}": 0,
        "distgan_phase_seconds_total{generator}": 0.5,
        "distgan_collective_bytes_total{generator}": 400,
        "distgan_collective_seconds_total{generator}": 0.25,
        "distgan_images_per_second": 32,
        "distgan_discriminator_loss": 1.5,
        "distgan_generator_loss": 0.5,
        "distgan_gradient_norm{generator}": 3.0,
        "distgan_gradient_norm{discriminator}": 4.0,
        "distgan_nonfinite_total": 2,
        "distgan_checkpoint_seconds_count": 1,
        "distgan_checkpoint_failures_total": 1,
        "distgan_restarts_total": 2,
    }
    assert {name: scraped.get(name) for name in expected} == expected
    (line,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (line["generator_collective_bytes"], line["generator_collective_seconds"]) == (400, 0.25)
    assert scraped["distgan_last_step_timestamp_seconds"] > 1.7e9
    assert any(name.startswith("distgan_build_info{") for name in scraped)


def test_the_log_holds_a_line_per_interval_and_event(exporter: Exporter, tmp_path: Path) -> None:
    state = TrainState(batch_size=8, discriminator_steps=1)
    reporter = Reporter(WORLD, exporter, tmp_path / "log.jsonl", state, 1000, Traffic())
    reporter.event("start", num_ranks=1)
    for value in (1.0, float("nan")):
        reporter.add({"discriminator_loss": torch.tensor(value)})
        state.iteration += 1
        reporter.iteration(seconds=0.25, data=ReadStatistics())
        reporter.interval()
    reporter.interval()  # nothing happened since: no line
    start, first, second = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert start == {"event": "start", "num_images": 0, "num_ranks": 1}
    assert (first["num_images"], first["iteration"], first["discriminator_loss"]) == (8, 1, 1.0)
    assert (first["images_per_second"], first["data_wait_share"]) == (32.0, 0.0)
    assert second["discriminator_loss"] is None, "JSON has no NaN"


def test_ranks_export_their_own_images(exporter: Exporter, tmp_path: Path) -> None:
    state = TrainState(batch_size=8, discriminator_steps=1)
    reporter = Reporter(TWO_RANKS_MAIN, exporter, tmp_path / "log.jsonl", state, 1000, Traffic())
    state.iteration += 1
    reporter.iteration(seconds=0.25, data=ReadStatistics())
    assert exporter.registry.get_sample_value("distgan_images_total") == 4


def test_a_taken_port_is_a_warning(exporter: Exporter, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with exporter.serving("127.0.0.1", port):
            pass
    assert f"warning: metrics.port: 127.0.0.1:{port} cannot be served" in capsys.readouterr().err


def test_the_port_is_free_again_afterwards(exporter: Exporter) -> None:
    port = free_port()
    with exporter.serving("127.0.0.1", port):
        _scrape(port)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_meter_keeps_values_on_their_device_and_without_graph() -> None:
    meter = Meter(WORLD)
    meter.add({"loss": (torch.ones(1, requires_grad=True) * 2).sum()})
    assert not meter._sums["loss"].requires_grad
    assert meter.flush() == {"loss": 2.0}
