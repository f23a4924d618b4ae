"""The alerts: promtool takes them, each is raised by what it is for and not by what is well, and each has a section in the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan.metrics.prometheus import Exporter
from tests.kubernetes.rendering import K8S, missing

pytestmark = pytest.mark.skipif(bool(missing("promtool")), reason="no promtool here")

RULES = yaml.safe_load((K8S / "components" / "monitoring" / "alerts.yaml").read_text())["spec"]
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
A, B = '{job="run", instance="10.0.0.1:9400"}', '{job="run", instance="10.0.0.2:9400"}'


def series(name: str, values: str, labels: str = A) -> dict[str, str]:
    return {"series": f"{name}{labels}", "values": values}


def with_phase(labels: str) -> str:
    return labels.replace("}", ', phase="generator"}')


# {alert: (what raises it, what does not)}: series of a sample a minute, and the instances that are named after an hour.
CASES: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    "DistganStalled": (
        [series("distgan_last_step_timestamp_seconds", "60x10 600x120")],
        [series("distgan_last_step_timestamp_seconds", "0+60x120"), series("distgan_last_step_timestamp_seconds", "0x120", B)],
    ),
    "DistganNonFinite": (
        [series("distgan_nonfinite_total", "0x45 0+5x60")],
        [series("distgan_nonfinite_total", "0+1x5 5x120")],
    ),
    "DistganDataStarvation": (
        [series("distgan_data_wait_seconds_total", "0+20x120")],
        [series("distgan_data_wait_seconds_total", "0+6x120")],
    ),
    "DistganStraggler": (
        [
            series("distgan_collective_seconds_total", "0+1x120", with_phase(A)),
            series("distgan_collective_seconds_total", "0+40x120", with_phase(B)),
        ],
        [
            series("distgan_collective_seconds_total", "0+38x120", with_phase(A)),
            series("distgan_collective_seconds_total", "0+40x120", with_phase(B)),
        ],
    ),
    "DistganCheckpointOld": (
        [series("distgan_last_checkpoint_timestamp_seconds", "1x600")],
        [series("distgan_last_checkpoint_timestamp_seconds", "0+60x600"), series("distgan_last_checkpoint_timestamp_seconds", "0x600", B)],
    ),
    "DistganCheckpointFailed": (
        [series("distgan_checkpoint_failures_total", "0x50 1x70")],
        [series("distgan_checkpoint_failures_total", "0x120")],
    ),
    "DistganSkippedSamples": (
        [series("distgan_skipped_samples_total", "0x50 3x70", A.replace("}", ', reason="checksum"}'))],
        [series("distgan_skipped_samples_total", "0x120", A.replace("}", ', reason="checksum"}'))],
    ),
    "DistganRestarts": (
        [series("distgan_restarts_total", "0x10 1x10 2x10 3x10 4x10 5x70")],
        [series("distgan_restarts_total", "0x10 1x110")],
    ),
    "DistganDiscriminatorSaturated": (
        [series("distgan_discriminator_loss", "0.001x120"), series("distgan_generator_loss", "9x120")],
        [series("distgan_discriminator_loss", "0.6x120"), series("distgan_generator_loss", "1.2x120")],
    ),
}
MINUTES = {"DistganCheckpointOld": 420}


def raised(alert: str, given: list[dict[str, str]], directory: Path) -> bool:
    """Whether promtool sees the alert for the first instance; it is asked whether there is none, and answers what there is."""
    (directory / "rules.yaml").write_text(yaml.safe_dump(RULES))
    minutes = MINUTES.get(alert, 60)
    test: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": given,
                "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=directory, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert ("SUCCESS" in said) == (done.returncode == 0), said
    assert done.returncode == 0 or f'alertname="{alert}"' in said, said
    return done.returncode != 0


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    done = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_every_alert_is_tested() -> None:
    assert sorted(CASES) == sorted(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_it_is_raised_by_what_it_is_for(alert: str, tmp_path: Path) -> None:
    assert raised(alert, CASES[alert][0], tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_it_is_not_raised_by_what_is_well(alert: str, tmp_path: Path) -> None:
    assert not raised(alert, CASES[alert][1], tmp_path)


def test_every_alert_has_a_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (K8S.parent / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == ALERTS
    links = [rule["annotations"]["runbook"] for group in RULES["groups"] for rule in group["rules"]]
    assert links == [f"docs/runbook.md#{alert.lower()}" for alert in ALERTS]


def test_metrics_of_the_alerts_exist() -> None:
    """Under the names that the exporter gives them."""
    served = {sample.name for family in Exporter(restarts=0).registry.collect() for sample in family.samples}
    served |= {f"{family.name}_total" for family in Exporter(restarts=0).registry.collect() if family.type == "counter"}
    asked = {name for group in RULES["groups"] for rule in group["rules"] for name in re.findall(r"distgan_\w+", rule["expr"])}
    assert asked <= served
