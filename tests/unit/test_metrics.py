"""What a run tells: names and values on a real HTTP port, log.jsonl, and that a taken port ends nothing."""

import json
import socket
import time
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from distgan.bench.ranks import free_port
from distgan.data.reading.samples import ReadStatistics
from distgan.distributed import World
from distgan.metrics.log import RunLog
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


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return clock


def _reporter(
    exporter: Exporter, tmp_path: Path, state: TrainState, world: World = WORLD, traffic: Traffic | None = None, peak: float | None = None
) -> Reporter:
    return Reporter(world, exporter, tmp_path / "log.jsonl", state, 1000, traffic or Traffic(), peak)


def test_everything_measured_is_served_under_its_name(exporter: Exporter, tmp_path: Path, now: list[float]) -> None:
    traffic, factor = Traffic(), torch.ones(5, 5)
    state = TrainState(batch_size=8, discriminator_steps=2, iteration=3)
    reporter = _reporter(exporter, tmp_path, state, traffic=traffic, peak=1e4)
    port = free_port()
    with exporter.serving("127.0.0.1", port):
        assert (_scrape(port)["distgan_run_images"], _scrape(port)["distgan_run_target_images"]) == (48, 1000)
        for _ in range(4):
            reporter.add({"discriminator_loss": torch.tensor(1.5), "generator_loss": torch.tensor(0.5), "penalty": torch.tensor(0.75)})
            reporter.add({"real_logit": torch.tensor(2.0), "fake_logit": torch.tensor(-3.0)})
            reporter.add({"generator_gradient_norm": torch.tensor(3.0), "generator_skipped_share": torch.tensor(0.0)})
            reporter.add({"discriminator_gradient_norm": torch.tensor(4.0), "discriminator_skipped_share": torch.tensor(0.25)})
            with reporter.iterating():
                with reporter.phase("generator"):
                    now[0] += 0.125
                with reporter.phase("average"), reporter.call("product"):
                    factor @ factor
                with traffic.during("generator"):
                    traffic.count("all_reduce", torch.empty(0), 100.0, lambda: now.__setitem__(0, now[0] + 0.0625))
                now[0] += 0.3125
            state.iteration += 1
            reporter.iteration(seconds=0.625, data=ReadStatistics(16, 4000, 0.25, 0.75, 0.125, 10, 6, Counter({"checksum": 1})))
        reporter.interval()
        with exporter.checkpoint_seconds.time():
            pass
        exporter.checkpoint_failures.inc()
        scraped = _scrape(port)
    expected = {
        "distgan_images_total": 64,
        "distgan_run_images": 112,
        "distgan_run_target_images": 1000,
        "distgan_step_seconds_count": 4,
        "distgan_step_seconds_sum": 2.5,
        "distgan_data_wait_seconds_total": 0.5,
        "distgan_data_samples_total": 64,
        "distgan_data_bytes_total": 16000,
        "distgan_data_read_seconds_total": 1.0,
        "distgan_data_decode_seconds_total": 3.0,
        "distgan_cache_hits_total": 40,
        "distgan_cache_misses_total": 24,
        "distgan_skipped_samples_total{checksum}": 4,
        "distgan_skipped_samples_total{shard}": 0,
        "distgan_phase_seconds_total{discriminator}": 0,
        "distgan_phase_seconds_total{generator}": 0.5,
        "distgan_phase_seconds_total{average}": 0,
        "distgan_collective_bytes_total{generator}": 400,
        "distgan_collective_seconds_total{generator}": 0.25,
        "distgan_model_flops_total": 4 * 2 * 5**3,
        "distgan_mfu_ratio": 4 * 2 * 5**3 / 2.0 / 1e4,
        "distgan_images_per_second": 32,
        "distgan_discriminator_loss": 1.5,
        "distgan_generator_loss": 0.5,
        "distgan_gradient_penalty": 0.75,
        "distgan_logit{real}": 2.0,
        "distgan_logit{fake}": -3.0,
        "distgan_gradient_norm{generator}": 3.0,
        "distgan_gradient_norm{discriminator}": 4.0,
        "distgan_nonfinite_total": 2,
        "distgan_checkpoint_seconds_count": 1,
        "distgan_checkpoint_failures_total": 1,
        "distgan_restarts_total": 2,
    }
    assert {name: scraped.get(name) for name in expected} == expected
    (line,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (line["images_per_second"], line["data_wait_share"], line["generator_seconds"], line["average_seconds"]) == (32, 0.25, 0.5, 0)
    assert (line["generator_collective_bytes"], line["generator_collective_seconds"]) == (400, 0.25)
    assert (line["flops_per_second"], line["mfu"]) == (500, 0.05)
    held = psutil.Process().memory_info().rss
    assert line["memory_bytes"] == pytest.approx(held, rel=0.5)
    assert scraped["distgan_memory_bytes{resident}"] == pytest.approx(held, rel=0.5)
    assert scraped["distgan_last_step_timestamp_seconds"] > 1.7e9
    assert any(name.startswith("distgan_build_info{") for name in scraped)


def test_what_is_not_known_is_not_said(exporter: Exporter, tmp_path: Path, now: list[float]) -> None:
    """Zero would be a value: of a device whose peak is unknown, of a penalty that nobody takes, of a memory that is not there."""
    state = TrainState(batch_size=8, discriminator_steps=1)
    reporter = _reporter(exporter, tmp_path, state)
    with reporter.iterating():
        now[0] += 1
    state.iteration += 1
    reporter.add({"discriminator_loss": torch.tensor(1.0)})
    reporter.iteration(seconds=1.0, data=ReadStatistics())
    reporter.interval()
    (line,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "mfu" not in line
    samples = {sample.name: sample.labels for family in exporter.registry.collect() for sample in family.samples}
    assert not samples.keys() & {"distgan_mfu_ratio", "distgan_gradient_penalty", "distgan_logit"}
    assert samples["distgan_memory_bytes"] == {"kind": "resident"}


def test_an_interval_without_images_leaves_the_speed_as_it_was(exporter: Exporter, tmp_path: Path, now: list[float]) -> None:
    """As the last one is where a run ends with a log line."""
    state = TrainState(batch_size=8, discriminator_steps=1)
    reporter = _reporter(exporter, tmp_path, state, peak=1.0)
    with reporter.iterating():
        now[0] += 0.25
    state.iteration += 1
    reporter.iteration(seconds=0.25, data=ReadStatistics())
    reporter.interval()
    reporter.interval()
    assert exporter.registry.get_sample_value("distgan_images_per_second") == 32


def test_the_log_holds_a_line_per_interval_and_event(exporter: Exporter, tmp_path: Path, now: list[float]) -> None:
    state = TrainState(batch_size=8, discriminator_steps=1)
    reporter = _reporter(exporter, tmp_path, state)
    reporter.event("start", num_ranks=1)
    for value in (1.0, float("nan")):
        reporter.add({"discriminator_loss": torch.tensor(value)})
        with reporter.iterating():
            now[0] += 0.25
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
    reporter = _reporter(exporter, tmp_path, state, TWO_RANKS_MAIN)
    state.iteration += 1
    reporter.iteration(seconds=0.25, data=ReadStatistics())
    assert exporter.registry.get_sample_value("distgan_images_total") == 4
    assert exporter.registry.get_sample_value("distgan_run_images") == 8


def test_sittings_are_counted_by_their_events(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.num_sittings() == 0, "nothing is there yet"
    for record in ({"event": "start"}, {"num_images": 8}, {"event": "skip"}, {"event": "resume"}, {"event": "resume"}):
        log.write(record)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"event": "start", "num_im')  # the disk was full
    assert log.num_sittings() == 3


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
