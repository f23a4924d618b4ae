"""Shows training that runs on this machine or is reached from it: a Prometheus that scrapes its ranks, with the alerts of k8s/, and where
Grafana is installed, that too, with the dashboard. Ctrl-C ends it; what was seen is kept, and the same command shows it again.

python launch/monitoring/up.py                            ranks of this machine, at ports 9400 to 9415
python launch/monitoring/up.py node-0:9400 node-0:9401    these
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from distgan.arguments import Parser, port
from distgan.errors import InputError, RunError
from distgan.process import EXIT_DONE, EXIT_FAILED, refuse

PROGRAM = "launch/monitoring/up.py"
MONITORING = Path(__file__).resolve().parents[2] / "k8s" / "components" / "monitoring"
HOST = "127.0.0.1"  # where pages are served: whoever is elsewhere comes by ssh -L
LOCAL_RANKS = [f"{HOST}:{port}" for port in range(9400, 9416)]
SCRAPE_SECONDS = 5
READY_SECONDS = 120  # a long history is read first


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("targets", nargs="*", default=LOCAL_RANKS, metavar="HOST:PORT", help="where a rank serves its metrics")
    parser.add_argument("--port", type=port, default=9090, help="of Prometheus (default: %(default)s)")
    parser.add_argument("--grafana-port", type=port, default=3000, help="of Grafana (default: %(default)s)")
    parser.add_argument(
        "--directory", type=Path, default=Path("runs/monitoring"), help="for what is seen, and for logs (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def check(options: argparse.Namespace, grafana: str | None) -> None:
    """Before anything starts.

    Raises:
        InputError: an address is none, a port is not free, or there is no Prometheus.
    """
    problems = [
        f"HOST:PORT is {target!r}; give a rank's address as node-0:9400."
        for target in options.targets
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s/:]+):\d+", target)
    ]
    if shutil.which("prometheus") is None:
        how = "Debian and Ubuntu have it: apt-get install prometheus; for others it is at https://prometheus.io/download"
        problems.append(f"PATH has no program 'prometheus'; install it ({how}).")
    for flag, number in {"--port": options.port, **({"--grafana-port": options.grafana_port} if grafana else {})}.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what has just ended does not keep it
            try:
                probe.bind((HOST, number))
            except OSError as error:
                problems.append(f"{flag} is {number}, which cannot be had ({error.strerror}); set it to a free one.")
    if problems:
        raise InputError(problems)


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Within this, a program runs beside its log; it is told to end, and waited for."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def prometheus_command(directory: Path, targets: Sequence[str], port: int) -> list[str]:
    """After its files were written; the rules are those that a cluster gets."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "distgan", "static_configs": [{"targets": list(targets)}]}],
    }
    _write(directory / "alerts.yaml", rules)
    _write(directory / "prometheus.yaml", configuration)
    return ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={HOST}:{port}"]


def grafana_command(program: str, directory: Path, port: int, prometheus_url: str) -> tuple[list[str], dict[str, str]]:
    """And its environment, after its files were written: the data source, and where the dashboard is."""
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": prometheus_url, "isDefault": True}
    source["jsonData"] = {"timeInterval": f"{SCRAPE_SECONDS}s"}
    provider = {"name": "distgan", "type": "file", "options": {"path": str(MONITORING)}}
    _write(directory / "provisioning" / "datasources" / "prometheus.yaml", {"apiVersion": 1, "datasources": [source]})
    _write(directory / "provisioning" / "dashboards" / "distgan.yaml", {"apiVersion": 1, "providers": [provider]})
    settings = {
        "GF_PATHS_DATA": directory / "data",
        "GF_PATHS_LOGS": directory / "logs",
        "GF_PATHS_PLUGINS": directory / "plugins",
        "GF_PATHS_PROVISIONING": directory / "provisioning",
        "GF_SERVER_HTTP_ADDR": HOST,
        "GF_SERVER_HTTP_PORT": port,
        "GF_AUTH_ANONYMOUS_ENABLED": "true",  # to look; who wants to change something signs in
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    command = [program, "server"] if Path(program).name == "grafana" else [program]
    return [*command, "--homepath", str(_grafana_home(program))], dict(os.environ) | {name: str(value) for name, value in settings.items()}


def _grafana_home(program: str) -> Path:
    """Where its pages and its own settings lie: beside an unpacked one, or where packages put them."""
    folder = Path(program).resolve().parent.parent
    candidates = [folder, folder / "share" / "grafana", Path("/usr/share/grafana")]
    return next((path for path in candidates if (path / "conf" / "defaults.ini").exists()), candidates[-1])


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises:
    RunError: it has ended.
    """
    if process.poll() is not None:
        last = (log.read_text(errors="replace").splitlines() or ["it says nothing"])[-1]
        raise RunError(f"{log.stem} has ended; the last line of {log} is: {last}")


def await_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until Prometheus answers.

    Raises:
        RunError: it has ended, or does not answer.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        check_alive(process, log)
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.1)
    raise RunError(f"prometheus does not answer at {HOST}:{port}; its log is {log}.")


def graph_url(url: str, expression: str) -> str:
    """Prometheus' own page with a curve of the last 15 minutes."""
    return f"{url}/graph?{urllib.parse.urlencode({'g0.expr': expression, 'g0.tab': 0, 'g0.range_input': '15m'})}"


def watch(options: argparse.Namespace, grafana: str | None) -> NoReturn:
    """Until Ctrl-C, which comes as KeyboardInterrupt, or something ends.

    Raises:
        RunError: Prometheus or Grafana has ended.
    """
    directory: Path = options.directory.resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--directory is {str(options.directory)!r}, which cannot be made ({error.strerror}); give another one.") from None
    url, log = f"http://{HOST}:{options.port}", directory / "prometheus.log"
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(running(prometheus_command(directory, options.targets, options.port), log))
        processes = [(process, log)]
        await_ready(options.port, process, log)
        ranks = options.targets[0] if len(options.targets) == 1 else f"{options.targets[0]} to {options.targets[-1]}"
        print(f"Prometheus: {url}, which asks {ranks} every {SCRAPE_SECONDS} s")
        print(f"Images/s: {graph_url(url, 'sum(rate(distgan_images_total[30s]))')}")
        print("Alerts: its page of that name; what each means: docs/runbook.md")
        if grafana:
            log = directory / "grafana" / "grafana.log"
            command, environment = grafana_command(grafana, log.parent, options.grafana_port, url)
            processes.append((stack.enter_context(running(command, log, environment)), log))
            print(f"Grafana, in some seconds: http://{HOST}:{options.grafana_port}/d/distgan")
        else:
            print(f"There is no Grafana here. In one that has this Prometheus as a data source, import {MONITORING / 'dashboard.json'}")
        print("Ctrl-C ends it.", flush=True)
        while True:
            for process, log in processes:
                check_alive(process, log)
            time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    grafana = shutil.which("grafana") or shutil.which("grafana-server")
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter, too: a shell starts what it puts into the background without
        signal.signal(number, signal.default_int_handler)
    try:
        options = parse(arguments)
        check(options, grafana)
        watch(options, grafana)
    except InputError as error:
        return refuse(error, PROGRAM)
    except RunError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
