"""The dashboard: Grafana's own classes know all of it, it shows the alerts' limits, and every metric is seen somewhere.

Its queries are asked of a real run in tests/integration/test_dashboard.py.
"""

import json
import re
import runpy
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as grafana
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ConfigDict, TypeAdapter, ValidationError

from distgan.metrics.interval import Interval
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Total
from tests.kubernetes.dashboard import DASHBOARD, MONITORING, Json, alert_of, panels, queries, variables
from tests.kubernetes.rendering import of_kind, rendered, write_kustomization
from tests.kubernetes.test_alerts import ALERTS, RULES
from tests.tools import missing

ANY_OBJECTS = ConfigDict(arbitrary_types_allowed=True)

# The least that raises an alert, by its text.
LIMITS = {
    "DistganStalled": 600,
    "DistganNonFinite": 11,
    "DistganDataStarvation": 0.2,
    "DistganStraggler": 0.2,
    "DistganCheckpointOld": 6 * 3600,
    "DistganCheckpointFailed": 1,
    "DistganSkippedSamples": 1,
    "DistganRestarts": 4,
    "DistganDiscriminatorSaturated": None,  # of two values together
}
NOT_SHOWN = {
    "distgan_images_per_second": "distgan_images_total tells it for any span of time, what is between steps included",
}


def of_grafana(dashboard: Json) -> grafana.Dashboard:
    """Grafana's own object; what its classes do not know is not in it."""
    plugins.register_default_plugins()
    found = grafana.Dashboard.from_json(dashboard)
    for panel in found.panels or []:
        if isinstance(panel, grafana.Panel):  # its lists of two kinds are left as they are
            links: Any = panel.links or []
            steps: Any = panel.transformations or []
            panel.links = [grafana.DashboardLink.from_json(part) for part in links]
            panel.transformations = [grafana.DataTransformerConfig.from_json(part) for part in steps]
    return found


def lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """Where something of `given` is not in `kept`, which may have more in objects."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept.get(name, "nothing"), f"{place}/{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(value, other, f"{place}/{number}")
    elif given != kept:
        yield place


@cache
def declared(kind: type) -> dict[str, TypeAdapter]:
    return {name: TypeAdapter(hint, config=ANY_OBJECTS) for name, hint in typing.get_type_hints(kind).items()}


def of_wrong_type(part: Any, place: str = "") -> Iterator[str]:
    """Where a value is not of the type that Grafana's class declares: it does not look itself."""
    if isinstance(part, list):
        for number, value in enumerate(part):
            yield from of_wrong_type(value, f"{place}/{number}")
    elif type(part).__module__.startswith("grafana_foundation_sdk"):
        for name, adapter in declared(type(part)).items():
            value = getattr(part, name)
            try:
                adapter.validate_python(value)
            except ValidationError:
                yield f"{place}/{name}"
            yield from of_wrong_type(value, f"{place}/{name}")


def test_it_is_what_its_program_makes() -> None:
    """After a change of panels, alerts or runbook: python k8s/components/monitoring/dashboard/generate.py"""
    assert runpy.run_path(str(MONITORING / "dashboard" / "generate.py"))["dashboard"]() == DASHBOARD


def test_grafana_knows_all_of_it() -> None:
    dashboard = of_grafana(DASHBOARD)
    assert list(lost(DASHBOARD, json.loads(JSONEncoder().encode(dashboard)))) == []
    assert list(of_wrong_type(dashboard)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("options", "legendd"), {}),
        (("fieldConfig", "defaults", "custom", "lineWidht"), 1),
        (("fieldConfig", "defaults", "thresholds", "mode"), "absolut"),
        (("fieldConfig", "defaults", "custom", "stacking"), {"mode": "normall"}),
        (("targets", 0, "format"), "timeseries"),
        (("targets", 0, "expression"), "up"),
    ],
)
def test_grafana_would_not_know_a_misspelt_one(path: tuple[str | int, ...], value: Any) -> None:
    dashboard = json.loads(json.dumps(DASHBOARD))
    place = next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries")
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    taken = of_grafana(dashboard)
    assert [*lost(dashboard, json.loads(JSONEncoder().encode(taken))), *of_wrong_type(taken)] != []


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_everything_is_said_of_every_panel() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert len({target["legendFormat"] for target in panel["targets"]}) == len(letters), "two series of one name"
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set().union(*(re.split(r", ", labels) for labels in re.findall(r"by \(([^)]*)\)", target["expr"])))
            assert names <= kept or "by (" not in target["expr"], f"{panel['title']}: {names - kept} is summed away"


def test_every_variable_is_there_and_used() -> None:
    built_in = {"__rate_interval", "__url_time_range", "__all_variables", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - built_in == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_every_query_is_of_the_chosen_runs() -> None:
    for _, query in [*queries(), ("annotation", DASHBOARD["annotations"]["list"][0]["expr"])]:
        metrics = re.findall(r'\b(?:distgan_\w+|ALERTS)\b(\{namespace=~"\$namespace", job=~"\$job")?', query)
        assert metrics
        assert all(metrics), query
    assert variables() == {"namespace": "distgan_build_info", "job": 'distgan_build_info{namespace=~"$namespace"}'}


def test_limits_are_those_of_the_alerts() -> None:
    shown = {}
    for panel in panels():
        limits = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]]
        if alert := alert_of(panel):
            shown[alert] = limits[0] if limits else None
    assert shown == LIMITS
    for group in RULES["groups"]:
        for rule in group["rules"]:
            numbers = [float(number) for number in re.findall(r"[<>]=? ([\d.]+)", rule["expr"])]
            assert LIMITS[rule["alert"]] in (
                None,
                numbers[-1],
                numbers[-1] + 1,
                numbers[-1] + {"9m": 540, "5h": 18000}.get(rule.get("for"), 0),
            )


def test_every_alert_leads_to_the_runbook() -> None:
    (runbook,) = [panel for panel in DASHBOARD["panels"] if panel["type"] == "text"]
    assert re.findall(r"^## (\w+)$", runbook["options"]["content"], re.MULTILINE) == ALERTS
    links = [link["url"] for panel in panels() for link in panel.get("links", ())]
    assert len(links) == len(ALERTS)
    assert {link.partition("&")[0] for link in links} == {f"/d/{DASHBOARD['uid']}?viewPanel={runbook['id']}"}


@pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")
def test_grafanas_sidecar_finds_it_whatever_it_is_called(tmp_path: Path) -> None:
    write_kustomization(tmp_path, "cpu-smoke", ["components/monitoring"], namePrefix="my-", nameSuffix="-2", namespace="team")
    found = [manifest for manifest in rendered(tmp_path) if manifest.get("metadata", {}).get("labels", {}).get("grafana_dashboard")]
    config_map = of_kind(found, "ConfigMap")
    assert found == [config_map]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["name"] == "my-distgan-dashboard-2"
    assert json.loads(config_map["data"]["distgan.json"]) == DASHBOARD
    assert len(json.dumps(config_map)) < 262144, "kubectl apply keeps it in an annotation, which may not be larger"


def test_every_metric_is_seen_somewhere() -> None:
    """Of a rank that has all of them, as a GPU's does."""
    means = {"penalty": 1.0, "real_logit": 1.0, "fake_logit": 1.0, "generator_gradient_norm": 1.0}
    exporter = Exporter(restarts=0)
    exporter.interval(Interval(1, 1, 1.0, 0.0, {}, {"generator": Total(1, 1)}, 1, 1.0, {"device_peak": 1}, means, 0))
    served = {
        sample.name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket")
        for family in text_string_to_metric_families(generate_latest(exporter.registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")  # prometheus_client's own
    }
    of_alerts = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    asked = " ".join([*of_alerts, *(query for _, query in queries())])
    seen = {re.sub(r"_(sum|count|bucket)$", "", name) for name in re.findall(r"distgan_\w+", asked)}
    assert seen <= served
    assert served - seen == set(NOT_SHOWN)
