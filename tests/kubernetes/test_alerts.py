"""The alerts: promtool takes them, each is raised by what it is for and not by what is well, and each has a section in the runbook."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from distgan.metrics.prometheus import Exporter
from tests.kubernetes.rendering import K8S
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("promtool")), reason="no promtool here")

RULES = yaml.safe_load((K8S / "components" / "monitoring" / "alerts.yaml").read_text())["spec"]
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
FIRST, SECOND, THIRD, NEW = (f"10.0.0.{number}:9400" for number in range(1, 5))
RUN = frozenset({"run"})
NOBODY: frozenset[str] = frozenset()


def series(name: str, values: str, instance: str = FIRST, job: str = "run", **labels: str) -> dict[str, str]:
    """A sample a minute, as promtool writes it: `0+5x60` is 61 of them, `_` is none, `stale` what Prometheus writes for who is gone.

    With the labels that a PodMonitor gives, of which the endpoint is another one for each rank of a node.
    """
    rank = int(instance.rpartition(":")[2]) - 9400
    of_pod_monitor = {"job": job, "namespace": "team", "instance": instance, "endpoint": f"metrics-{rank}", "container": "train"}
    every_label = ", ".join(f'{label}="{value}"' for label, value in (of_pod_monitor | labels).items())
    return {"series": f"{name}{{{every_label}}}", "values": values}


def waiting_in_exchanges(instance: str, values: str, job: str = "run", pod: str = "") -> dict[str, str]:
    return series("distgan_collective_seconds_total", values, instance, job, phase="generator", **({"pod": pod} if pod else {}))


def last_step(values: str, instance: str = FIRST, job: str = "run") -> dict[str, str]:
    return series("distgan_last_step_timestamp_seconds", values, instance, job)


def last_save(values: str, instance: str = FIRST) -> dict[str, str]:
    return series("distgan_last_checkpoint_timestamp_seconds", values, instance)


def losses(discriminator: str, generator: str) -> list[dict[str, str]]:
    return [series("distgan_discriminator_loss", discriminator), series("distgan_generator_loss", generator)]


@dataclass(frozen=True)
class Case:
    """The alert is raised for these (the instance, or else the job) after so many minutes, and for no other."""

    alert: str
    what: str
    given: list[dict[str, str]]
    raised_for: frozenset[str]
    minutes: int = 60

    @property
    def name(self) -> str:
        return f"{self.alert}-{self.what}"


CASES = [
    Case("DistganStalled", "stopped", [last_step("60x10 600x120"), last_step("60x10 600x120", SECOND)], RUN),
    Case("DistganStalled", "no-first-step", [last_step("0x120")], RUN),
    Case("DistganStalled", "works", [last_step("0+60x120"), last_step("0+60x120", SECOND)], NOBODY),
    Case("DistganStalled", "steps-of-five-minutes", [last_step(" ".join(f"{300 * step}x4" for step in range(12)))], NOBODY, 50),
    Case("DistganStalled", "was-killed-and-goes-on", [last_step("0+60x30 stale"), last_step("_x38 0x5 2640+60x60", NEW)], NOBODY, 46),
    Case("DistganStalled", "of-two-runs-one", [last_step("0+60x120"), last_step("60x120", SECOND, job="other")], frozenset({"other"})),
    Case("DistganStalled", "is-done", [last_step("0+60x30 stale")], NOBODY),
    Case("DistganNonFinite", "many", [series("distgan_nonfinite_total", "0x45 0+5x60")], RUN),
    Case("DistganNonFinite", "fp16-finds-its-scale", [series("distgan_nonfinite_total", "0+1x5 5x120")], NOBODY, 10),
    Case("DistganDataStarvation", "waits", [series("distgan_data_wait_seconds_total", "0+20x120")], RUN),
    Case("DistganDataStarvation", "hardly-waits", [series("distgan_data_wait_seconds_total", "0+6x120")], NOBODY),
    Case("DistganDataStarvation", "first-batch", [series("distgan_data_wait_seconds_total", "_x30 60 62+0.1x120")], NOBODY, 42),
    Case(
        "DistganStraggler",
        "one-of-three",
        [
            waiting_in_exchanges("10.0.0.1:9400", "0+40x120"),
            waiting_in_exchanges("10.0.0.1:9401", "0+40x120"),
            waiting_in_exchanges(THIRD, "0+1x120", pod="run-2-x"),
        ],
        frozenset({THIRD}),
    ),
    Case("DistganStraggler", "alike", [waiting_in_exchanges(FIRST, "0+38x120"), waiting_in_exchanges(SECOND, "0+40x120")], NOBODY),
    Case(
        "DistganStraggler",
        "another-run-waits-more",
        [waiting_in_exchanges(instance, "0+2x120") for instance in (FIRST, SECOND)]
        + [waiting_in_exchanges(instance, "0+50x120", job="other") for instance in (THIRD, NEW)],
        NOBODY,
    ),
    *(
        Case(
            "DistganStraggler",
            f"{minutes - 30}-minutes-after-the-loss-of-one-of-three",
            [
                waiting_in_exchanges(FIRST, "0+40x30 stale"),
                waiting_in_exchanges(SECOND, "0+40x120"),
                waiting_in_exchanges(THIRD, "0+40x120"),
                waiting_in_exchanges(NEW, "_x31 0+40x120"),
            ],
            NOBODY,
            minutes,
        )
        for minutes in range(31, 43)
    ),
    Case("DistganCheckpointOld", "long-ago", [last_save("1x600"), last_save("0x600", SECOND)], RUN, 420),
    Case("DistganCheckpointOld", "never", [last_save("0x600")], RUN, 420),
    Case("DistganCheckpointOld", "never-by-pods-that-go", [last_save("0x200 stale"), last_save("_x203 0x500", NEW)], RUN, 420),
    Case("DistganCheckpointOld", "every-minute", [last_save("0+60x600"), last_save("0x600", SECOND)], NOBODY, 420),
    Case("DistganCheckpointOld", "every-five-hours", [last_save("0x300 18000x300")], NOBODY, 420),
    Case("DistganCheckpointOld", "five-hours-with-a-new-pod", [last_save("600x40 stale"), last_save("_x43 0x500", NEW)], NOBODY, 320),
    Case("DistganCheckpointFailed", "failed", [series("distgan_checkpoint_failures_total", "0x50 1x70")], RUN),
    Case("DistganCheckpointFailed", "no-failure", [series("distgan_checkpoint_failures_total", "0x120")], NOBODY),
    Case("DistganSkippedSamples", "some", [series("distgan_skipped_samples_total", "0x50 3x70", reason="checksum")], RUN),
    Case("DistganSkippedSamples", "none", [series("distgan_skipped_samples_total", "0x120", reason="checksum")], NOBODY),
    Case("DistganRestarts", "by-the-agent", [series("distgan_restarts_total", "0x10 1x10 2x10 3x10 4x80")], RUN),
    Case(
        "DistganRestarts",
        "by-new-pods",
        [
            series("distgan_restarts_total", f"_x{10 * restarts} {restarts}x{8 if restarts < 4 else 80} stale", f"10.0.1.{restarts}:9400")
            for restarts in range(5)
        ],
        RUN,
    ),
    Case(
        "DistganRestarts",
        "three-by-new-pods",
        [
            series("distgan_restarts_total", f"_x{10 * restarts} {restarts}x{8 if restarts < 3 else 80} stale", f"10.0.1.{restarts}:9400")
            for restarts in range(4)
        ],
        NOBODY,
    ),
    Case("DistganRestarts", "once", [series("distgan_restarts_total", "0x10 1x110")], NOBODY),
    Case("DistganRestarts", "many-but-long-ago", [series("distgan_restarts_total", "7x120")], NOBODY),
    Case("DistganRestarts", "begun-afresh", [series("distgan_restarts_total", "7x10 0x110")], NOBODY),
    Case(
        "DistganRestarts",
        "another-run-has-many",
        [series("distgan_restarts_total", "0x120"), series("distgan_restarts_total", "9x120", SECOND, job="other")],
        NOBODY,
    ),
    Case("DistganDiscriminatorSaturated", "sure", losses("0.001x120", "9x120"), RUN),
    Case("DistganDiscriminatorSaturated", "well", losses("0.6x120", "1.2x120"), NOBODY),
    Case("DistganDiscriminatorSaturated", "wasserstein", losses("-30x120", "25x120"), NOBODY),
]


def write_tests(alert: str, directory: Path) -> Path:
    """Of the alert alone, for promtool: whether there is none, to which it answers what there is."""
    (rule,) = [rule for group in RULES["groups"] for rule in group["rules"] if rule["alert"] == alert]
    (directory / f"{alert}-rule.yaml").write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": [rule]}]}))
    tests = [
        {
            "name": case.name,
            "interval": "1m",
            "input_series": case.given,
            "alert_rule_test": [{"eval_time": f"{case.minutes}m", "alertname": alert, "exp_alerts": []}],
        }
        for case in CASES
        if case.alert == alert
    ]
    path = directory / f"{alert}-tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [f"{alert}-rule.yaml"], "evaluation_interval": "1m", "tests": tests}))
    return path


def _label_sets(answer: str) -> list[dict[str, str]]:
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels in re.findall(r"Labels:\{(.*)\}", answer)]


@pytest.fixture(scope="module")
def raised_for(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """{case: those whom promtool sees its alert for}; those without one are not in it."""
    directory = tmp_path_factory.mktemp("promtool")
    paths = [write_tests(alert, directory) for alert in ALERTS]
    done = subprocess.run(["promtool", "test", "rules", *paths], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    answers = re.split(r"^ *name: (.*),$", said, flags=re.MULTILINE)
    found = {
        name: {labels.get("instance", labels["job"]) for labels in _label_sets(answer)}
        for name, answer in zip(answers[1::2], answers[2::2], strict=True)
    }
    assert said.count("alertname:") == len(found), said
    return found


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    done = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_every_alert_is_tested_both_ways() -> None:
    for raised in (True, False):
        assert {case.alert for case in CASES if bool(case.raised_for) == raised} == set(ALERTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_raised_for_those_who_need_it(case: Case, raised_for: dict[str, set[str]]) -> None:
    assert raised_for.get(case.name, set()) == case.raised_for


def test_every_alert_has_a_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (K8S.parent / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == ALERTS
    links = [rule["annotations"]["runbook_url"] for group in RULES["groups"] for rule in group["rules"]]
    assert links == [f"docs/runbook.md#{alert.lower()}" for alert in ALERTS]


def test_metrics_of_the_alerts_exist() -> None:
    """Under the names that the exporter gives them."""
    served = {sample.name for family in Exporter(restarts=0).registry.collect() for sample in family.samples}
    served |= {f"{family.name}_total" for family in Exporter(restarts=0).registry.collect() if family.type == "counter"}
    asked = {name for group in RULES["groups"] for rule in group["rules"] for name in re.findall(r"distgan_\w+", rule["expr"])}
    assert asked <= served
