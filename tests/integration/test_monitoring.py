"""What a person or a Prometheus sees of a run that is under way: every rank's port, the progress bar of a terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distgan import train
from distgan.metrics.prometheus import Exporter
from tests.processes import two_free_ports

GUARD_SECONDS = 120
SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16"]


def _scraped(port: int) -> dict[str, float]:
    """The samples of a rank by name, those of a phase by name and phase; empty while nobody serves."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
            samples = [sample for family in families for sample in family.samples]
            return {f"{sample.name} {sample.labels.get('phase', '')}".strip(): sample.value for sample in samples}
    except OSError:
        return {}


def test_every_rank_serves_its_own_metrics(tmp_path: Path) -> None:
    port = two_free_ports()
    (tmp_path / "run").mkdir()
    # Two sittings that ended before their first checkpoint.
    (tmp_path / "run" / "log.jsonl").write_text(2 * '{"event": "start", "num_images": 0}\n')
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train", *SMALL),
        *("--run.dir", str(tmp_path / "run"), "--train.total_kimg", "5000", "--metrics.port", str(port)),
    ]
    with open(tmp_path / "stderr", "w") as stderr:
        agent = subprocess.Popen(command, stderr=stderr)
    try:
        deadline = time.monotonic() + GUARD_SECONDS
        # The last of them is there with the first log line, after 1,024 images.
        while not all("distgan_collective_bytes_total generator" in _scraped(port + rank) for rank in (0, 1)):
            assert agent.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for scraped in (_scraped(port), _scraped(port + 1)):
            assert scraped["distgan_images_total"] > 500, "half of them on each rank"
            for phase in ("discriminator", "generator"):
                assert scraped[f"distgan_collective_bytes_total {phase}"] > 0
                assert 0 < scraped[f"distgan_collective_seconds_total {phase}"] <= 1.01 * scraped[f"distgan_phase_seconds_total {phase}"]
            phases = sum(scraped[f"distgan_phase_seconds_total {phase}"] for phase in ("discriminator", "generator", "average"))
            assert phases <= 1.1 * scraped["distgan_step_seconds_sum"], "which has waits for data, too"
            assert scraped["distgan_model_flops_total"] > 0
            assert scraped["distgan_run_target_images"] == 5e6
            assert scraped["distgan_run_images"] == pytest.approx(2 * scraped["distgan_images_total"], rel=0.1)
            assert scraped["distgan_memory_bytes"] > 1e7
            assert "distgan_mfu_ratio" not in scraped, "nobody knows a CPU's peak"
            assert scraped["distgan_restarts_total"] == 2
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(GUARD_SECONDS)


def test_restarts_are_the_sittings_before_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporters: list[Exporter] = []

    class Kept(Exporter):
        def __init__(self, restarts: int) -> None:
            super().__init__(restarts)
            exporters.append(self)

    monkeypatch.setattr(train, "Exporter", Kept)
    command = [*SMALL, "--run.dir", str(tmp_path / "run"), "--metrics.port", "0", "--data.num_workers", "0"]
    for more in (["0.064"], ["0.128"], ["0.192"], ["0.064", "--run.overwrite"]):
        assert train.main([*command, "--train.total_kimg", *more]) == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "4")  # three of those workers ended before they could log anything
    assert train.main([*command, "--train.total_kimg", "0.128", "--run.overwrite"]) == 0
    assert [exporter.registry.get_sample_value("distgan_restarts_total") for exporter in exporters] == [0, 1, 2, 0, 4]


def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 160))
    command = [sys.executable, "-m", "distgan.train", *SMALL, "--run.dir", str(tmp_path / "run"), "--metrics.port", "0"]
    process = subprocess.Popen([*command, "--train.total_kimg", "6.4"], stderr=end)
    os.close(end)
    shown = b""
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline and select.select([terminal], [], [], GUARD_SECONDS)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait(GUARD_SECONDS) == 0
    text = shown.decode()
    assert re.search(r"100%\|.*6\.40k/6\.40k", text), text
    assert re.search(r"img/s, data wait \d+\.\d%, loss D \d\.\d+, loss G \d\.\d+", text), text
    assert text.rstrip().endswith("ema.png"), "the bar is gone when the last line is said"
