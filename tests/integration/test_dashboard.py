"""What a person looks at while a run is under way: `launch/monitoring/up.py`, every query of the dashboard, Prometheus' own page."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import yaml
from PIL import Image

from distgan.metrics.interval import Interval
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Total
from tests.integration.test_monitoring import SMALL
from tests.kubernetes.dashboard import DASHBOARD, MONITORING, panels, queries, variables
from tests.kubernetes.prometheus import Prometheus
from tests.kubernetes.test_alerts import ALERTS
from tests.processes import two_free_ports, until
from tests.tools import missing

UP = MONITORING.parents[2] / "launch" / "monitoring" / "up.py"
GUARD_SECONDS = 120
TOTAL_KIMG = 5000
pytestmark = pytest.mark.skipif(bool(missing("prometheus")), reason="no prometheus here")

# What no CPU has. A rank that is nothing but its exporter plays a GPU's.
DEVICE_ONLY = {"MFU of each rank A"}
DEVICE_MEMORY = {"resident": 1, "device_allocated": 2, "device_reserved": 3, "device_peak": 4}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass(frozen=True)
class Run:
    """Of two ranks, and what watches it."""

    directory: Path
    ranks: list[str]
    gpu: str  # the rank that is only played
    prometheus: Prometheus

    def ask(self, query: str, gpu: bool = False) -> list[float]:
        """Of the dashboard's; its variables are chosen as for "All", with a rate over four scrapes and more."""
        ranks = f'instance{"=" if gpu else "!="}"{self.gpu}"'
        for variable, value in {'job=~"$job"': f'job=~".*", {ranks}', "$namespace": ".*", "$__rate_interval": "30s"}.items():
            query = query.replace(variable, value)
        assert "$" not in query
        return [float(sample["value"][1]) for sample in self.prometheus.query(query)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run under way and `up.py` beside it, which is ended by Ctrl-C."""
    directory = tmp_path_factory.mktemp("up")
    port, gpu_port, prometheus_port = two_free_ports(), free_port(), free_port()
    ranks, gpu = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"], f"127.0.0.1:{gpu_port}"
    training = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train", *SMALL),
        *("--run.dir", str(directory / "run"), "--train.total_kimg", str(TOTAL_KIMG), "--metrics.port", str(port)),
        *("--metrics.log_every_kimg", "0.256", "--checkpoint.every_kimg", "2.56"),
    ]
    watching = [sys.executable, UP, "--port", str(prometheus_port), "--directory", directory / "monitoring", *ranks, gpu]
    exporter = Exporter(restarts=0)
    exporter.interval(Interval(64, 1, 1.0, 0.0, {}, {"generator": Total(1, 1)}, 10**12, 4e12, DEVICE_MEMORY, {}, 0))
    with open(directory / "log", "w") as log, exporter.serving("127.0.0.1", gpu_port):
        watcher = subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=log, text=True)
        agent = subprocess.Popen(training, stderr=log)
        try:
            assert watcher.stdout is not None
            said = "".join(iter(watcher.stdout.readline, "Ctrl-C ends it.\n"))
            prometheus = Prometheus(f"127.0.0.1:{prometheus_port}")
            assert f"Prometheus: http://{prometheus.address}, which asks {ranks[0]} to {gpu}" in said
            yield Run(directory / "run", ranks, gpu, prometheus)
            assert (watcher.poll(), agent.poll()) == (None, None), (directory / "log").read_text()
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(GUARD_SECONDS) == 0
            assert prometheus.query("up") == []
        finally:
            for process in (watcher, agent):
                process.terminate()
                process.wait(GUARD_SECONDS)


def test_every_query_of_the_dashboard_is_answered(up: Run) -> None:
    unanswered = {name for name, _ in queries()}
    asked = dict(queries())

    def all_answered() -> bool:
        for name in sorted(unanswered):
            if up.ask(asked[name], gpu=name in DEVICE_ONLY):
                unanswered.discard(name)
        return not unanswered

    try:
        until(all_answered, "", GUARD_SECONDS)
    except AssertionError:
        pytest.fail(f"no data for {sorted(unanswered)}")
    assert len(asked) == sum(len(panel["targets"]) for panel in panels())
    for name in DEVICE_ONLY:
        assert up.ask(asked[name]) == [], "it is not the device's alone"
    up.prometheus.query(DASHBOARD["annotations"]["list"][0]["expr"])


def test_the_answers_are_those_of_the_run(up: Run) -> None:
    asked = dict(queries())
    by_kind = [asked[f"Where the time of each rank goes, now {letter}"] for letter in "ABC"]
    until(lambda: all(len(up.ask(query)) == 2 for query in by_kind), "no exchanges of both", GUARD_SECONDS)
    assert up.ask(asked["Ranks that answer A"]) == [2]
    (progress,) = up.ask(asked["Progress A"])
    assert 0 < progress <= json.loads((up.directory / "log.jsonl").read_text().splitlines()[-1])["num_images"] / (1000 * TOTAL_KIMG) + 1e-3
    assert sum(up.ask(asked["Images/s of each rank A"])) == pytest.approx(up.ask(asked["Images/s of the run A"])[0], rel=0.3)

    def are_shares() -> bool:
        """Of all of a rank's time. The first rates are over a time before there was anything to count."""
        of_kinds = [up.ask(query) for query in by_kind]
        assert min(map(min, of_kinds)) >= 0
        return all(0.2 < sum(of_rank) < 1.1 for of_rank in zip(*of_kinds, strict=True))

    until(are_shares, "phases, exchanges and waiting for data add up to nothing that is most of a rank's time", GUARD_SECONDS)
    assert up.ask(asked["MFU of each rank A"], gpu=True) == [0.25]
    assert sorted(up.ask(asked["Memory of each rank A"], gpu=True)) == [1, 2, 3, 4]


def test_the_choices_are_the_runs(up: Run) -> None:
    series = variables()
    until(lambda: up.prometheus.label_values("job", series["job"].replace("$namespace", ".*")) == ["distgan"], "no job", GUARD_SECONDS)
    assert up.prometheus.label_values("namespace", series["namespace"]) == []


def test_its_prometheus_has_the_alerts(up: Run) -> None:
    (group,) = up.prometheus.rule_groups()
    assert [rule["name"] for rule in group["rules"]] == ALERTS
    until(
        lambda: all(rule["health"] == "ok" for group in up.prometheus.rule_groups() for rule in group["rules"]),
        "a rule fails",
        GUARD_SECONDS,
    )


@pytest.mark.skipif(bool(missing("chromium")), reason="no chromium here")
def test_prometheus_draws_images_per_second(up: Run, tmp_path: Path) -> None:
    """Its own page, in a browser."""
    query = "sum(rate(distgan_images_total[30s]))"
    until(lambda: (up.prometheus.value(query) or 0) > 0, "nothing to draw", GUARD_SECONDS)
    page = f"http://{up.prometheus.address}/graph?{urlencode({'g0.expr': query, 'g0.tab': 0, 'g0.range_input': '1m'})}"
    picture = screenshot(page, tmp_path)
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    of_curve = (red > 150) & (red - green > 80) & (red - blue > 80)
    drawn = of_curve.any(axis=0)
    assert 50 < drawn.sum() < 0.95 * drawn.size, "columns of pixels with a curve in them"
    assert of_curve.sum() < 10 * drawn.sum(), "a line"


def screenshot(page: str, directory: Path) -> np.ndarray:
    """[height, width, 3] uint8, when the page has done what it does in five seconds."""
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={directory / 'chromium'}"),
        *("--window-size=1200,760", "--virtual-time-budget=5000", f"--screenshot={directory / 'page.png'}", page),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS)
    assert done.returncode == 0, done.stderr
    with Image.open(directory / "page.png") as image:
        return np.asarray(image.convert("RGB"))


def test_an_installed_grafana_gets_the_dashboard(tmp_path: Path) -> None:
    """A program that plays it writes down what it is given."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "defaults.ini").touch()
    (tmp_path / "bin").mkdir()
    grafana = tmp_path / "bin" / "grafana"
    grafana.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/arguments\nenv > {tmp_path}/environment\nexec sleep 600\n')
    grafana.chmod(grafana.stat().st_mode | stat.S_IXUSR)
    port, grafana_port = free_port(), free_port()
    command = [sys.executable, UP, "--port", str(port), "--grafana-port", str(grafana_port), "--directory", tmp_path / "monitoring"]
    environment = os.environ | {"PATH": f"{grafana.parent}:{os.environ['PATH']}"}
    watcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        said = "".join(iter(watcher.stdout.readline, "Ctrl-C ends it.\n"))
        until((tmp_path / "environment").exists, "no Grafana", GUARD_SECONDS)
    finally:
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(GUARD_SECONDS) == 0
    assert f"http://127.0.0.1:{grafana_port}/d/{DASHBOARD['uid']}" in said
    assert (tmp_path / "arguments").read_text().split() == ["server", "--homepath", str(tmp_path)]
    given = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert (given["GF_SERVER_HTTP_ADDR"], given["GF_SERVER_HTTP_PORT"]) == ("127.0.0.1", str(grafana_port))
    provisioning = Path(given["GF_PATHS_PROVISIONING"])
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", f"http://127.0.0.1:{port}")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "distgan.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert [path.name for path in Path(provider["options"]["path"]).rglob("*.json")] == ["dashboard.json"]


def test_what_up_cannot_do_is_said_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, UP, "--port", port, "node-0"]
        done = subprocess.run(command, env={"PATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    address, program, busy = done.stderr.splitlines()
    assert address.endswith("HOST:PORT is 'node-0'; give a rank's address as node-0:9400.")
    assert "PATH has no program 'prometheus'; install it (Debian and Ubuntu have it: apt-get install prometheus" in program
    assert f"--port is {port}, which cannot be had" in busy
    assert list(tmp_path.iterdir()) == [], "nothing was begun"
