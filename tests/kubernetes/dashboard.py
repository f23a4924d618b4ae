"""The dashboard as Grafana reads it."""

import json
from typing import Any

from tests.kubernetes.rendering import K8S

Json = dict[str, Any]

MONITORING = K8S / "components" / "monitoring"
DASHBOARD: Json = json.loads((MONITORING / "dashboard.json").read_text())


def panels() -> list[Json]:
    """Those with data."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] not in ("row", "text")]


def queries() -> list[tuple[str, str]]:
    """(panel and letter, PromQL with Grafana's variables) of every query."""
    return [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in panels() for target in panel["targets"]]


def variables() -> dict[str, str]:
    """{name: series whose label of that name gives its values}."""
    found = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return {
        variable["name"]: variable["query"]["query"].removeprefix("label_values(").removesuffix(f", {variable['name']})")
        for variable in found
    }


def alert_of(panel: Json) -> str | None:
    """Whose limit it shows."""
    for link in panel.get("links", ()):
        return link["title"].removeprefix("Runbook: ")
    return None
