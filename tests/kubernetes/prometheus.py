"""A real Prometheus that scrapes what it is told to."""

import contextlib
import http
import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

SCRAPE_SECONDS = 1


class Prometheus:
    """Its HTTP interface."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _get(self, path: str, **parameters: str) -> Any:
        """What it answers; None: nobody does, or not yet.

        Raises:
            ValueError: it takes no such question, and says why.
        """
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:  # it starts
                return None
            raise ValueError(f"{parameters}: {error.read().decode()}") from error
        except OSError:
            return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now: [{"metric": labels, "value": [time, text]}]; empty while nobody answers.

        Raises:
            ValueError: it is no PromQL, or cannot be computed.
        """
        found = self._get("query", query=expression)
        return found["result"] if found else []

    def label_values(self, label: str, series: str) -> list[str]:
        """Of all these series so far. Raises as `query`."""
        return self._get(f"label/{label}/values", **{"match[]": series}) or []

    def rule_groups(self) -> list[dict[str, Any]]:
        """As its API has them: {"name": ..., "rules": [...]}."""
        return (self._get("rules") or {}).get("groups", [])

    def value(self, expression: str) -> float | None:
        """Of an expression that gives one number; None: it gives nothing yet."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def scraping(
    directory: Path, targets: Sequence[str] | Mapping[str, Sequence[str]], rules: dict[str, Any] | None = None
) -> Iterator[Prometheus]:
    """Scrape these addresses every second, as the job "distgan" or as the jobs that are named; with these rules, if any."""
    directory.mkdir(parents=True)
    jobs = targets if isinstance(targets, Mapping) else {"distgan": targets}
    configuration: dict[str, Any] = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(found)}]} for job, found in jobs.items()],
    }
    if rules is not None:
        (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
        configuration["rule_files"] = ["rules.yaml"]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait()
