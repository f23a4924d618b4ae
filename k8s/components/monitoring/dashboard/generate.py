"""Makes dashboard.json of panels.yaml, the limits of the alerts, and the runbook.

python k8s/components/monitoring/dashboard/generate.py
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "dashboard.json"
RUNBOOK = HERE.parents[3] / "docs" / "runbook.md"
RULES = {
    rule["alert"]: rule for group in yaml.safe_load((HERE.parent / "alerts.yaml").read_text())["spec"]["groups"] for rule in group["rules"]
}

UID = "distgan"
COLUMNS = 24  # of Grafana's grid
RUNBOOK_ID = 1  # of the panel that links lead to; the others count on from here
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN_RUNS = 'namespace=~"$namespace", job=~"$job"'
SECONDS = {"m": 60, "h": 3600}

LEGEND: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
TOOLTIP: Json = {"mode": "multi", "sort": "desc"}
NUMBER: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
# Of each kind of panel, what there is of one value at the present moment, and all that Grafana asks for.
NOW = ("stat", "bargauge", "barchart", "table")
TABLES = ("barchart", "table")
OPTIONS: dict[str, Json] = {
    "timeseries": {"legend": LEGEND, "tooltip": TOOLTIP},
    "stat": {
        "reduceOptions": NUMBER,
        "orientation": "auto",
        "textMode": "value_and_name",
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "wideLayout": True,
    },
    "bargauge": {
        "reduceOptions": NUMBER,
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
    },
    "barchart": {
        "orientation": "horizontal",
        "stacking": "normal",
        "showValue": "never",
        "barWidth": 0.9,
        "groupWidth": 0.7,
        "xTickLabelRotation": 0,
        "xTickLabelMaxLength": 0,
        "fullHighlight": False,
        "legend": LEGEND,
        "tooltip": TOOLTIP,
    },
    "heatmap": {
        "calculate": False,
        "rowsFrame": {"layout": "auto"},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "filterValues": {"le": 1e-9},
        "cellGap": 1,
        "showValue": "never",
        "yAxis": {"axisPlacement": "left", "unit": "s", "reverse": False},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def of_chosen_runs(expression: str) -> str:
    """PromQL in which each of our metrics is that of the runs that are chosen."""
    expression = re.sub(r"\b(distgan_\w+|ALERTS)\{", rf"\1{{{CHOSEN_RUNS}, ", expression)
    return re.sub(r"\b(distgan_\w+|ALERTS)\b(?!\{)", rf"\1{{{CHOSEN_RUNS}}}", expression)


def limit_of(alert: str) -> float | None:
    """The least value that raises it; None: it has several conditions. An age goes on growing while the alert waits."""
    rule = RULES[alert]
    if " and " in " ".join(rule["expr"].split()):
        return None
    above = float(re.search(r"> ([\d.]+)\s*$", rule["expr"])[1])  # pyright: ignore[reportOptionalSubscript]
    if rule["expr"].startswith("time()"):
        return above + int(rule["for"][:-1]) * SECONDS[rule["for"][-1]]
    return above + 1 if above.is_integer() else above  # a count


def target(letter: str, kind: str, query: Json) -> Json:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": of_chosen_runs(query["expression"]),
        "legendFormat": query.get("legend", "{{job}}"),
        "instant": kind in NOW,
        "range": kind not in NOW,
        "format": "table" if kind in TABLES else "heatmap" if kind == "heatmap" else "time_series",
    }


def custom(kind: str, limit: float | None, stacked: bool, scale: str) -> Json | None:
    if kind != "timeseries":
        return None
    return {
        "lineWidth": 0 if stacked else 1,
        "fillOpacity": 60 if stacked else 0,
        "showPoints": "auto",
        **({"stacking": {"mode": "normal", "group": "A"}} if stacked else {}),
        **({"scaleDistribution": {"type": "log", "log": 10}} if scale == "log" else {}),
        **({"thresholdsStyle": {"mode": "dashed"}} if limit is not None else {}),
    }


def one_table(category: str, legends: list[str]) -> tuple[list[Json], list[Json]]:
    """Transformations of the tables of several queries to one, a line for each value of `category`; and the names of its columns."""
    transformations = [
        {"id": "joinByField", "options": {"byField": category, "mode": "outer"}},
        {"id": "filterFieldsByName", "options": {"include": {"pattern": f"/^({category}|Value.*)$/"}}},
    ]
    columns = [f"Value #{chr(ord('A') + index)}" for index in range(len(legends))] if len(legends) > 1 else ["Value"]
    overrides = [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "displayName", "value": legend}]}
        for column, legend in zip(columns, legends, strict=True)
    ]
    return transformations, overrides


def panel(
    title: str,
    description: str,
    queries: list[Json],
    kind: str = "timeseries",
    size: tuple[int, int] = (8, 8),
    unit: str = "none",
    range: tuple[float | None, float | None] = (None, None),
    interval: str | None = None,
    alert: str | None = None,
    limit: float | None = None,
    stacked: bool = False,
    scale: str = "linear",
    category: str | None = None,
) -> Json:
    """One of panels.yaml, without its number; its position is to the left at the top."""
    limit = limit_of(alert) if alert else limit
    steps = [{"value": None, "color": "blue"}] if limit is None else [{"value": None, "color": "green"}, {"value": limit, "color": "red"}]
    transformations, overrides = [], []
    if category:
        transformations, overrides = one_table(category, [query["legend"] for query in queries])
    elif kind == "table":
        hidden = {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": queries[0]["legend"]}}}
        transformations = [hidden]
    return without_none(
        {
            "type": kind,
            "title": title,
            "description": description,
            "datasource": SOURCE,
            "gridPos": {"x": 0, "y": 0, "w": size[0], "h": size[1]},
            "targets": [target(chr(ord("A") + index), kind, query) for index, query in enumerate(queries)],
            "interval": interval,
            "links": [link_to_runbook(alert)] if alert else None,
            "fieldConfig": {
                "defaults": without_none(
                    {
                        "unit": unit,
                        "min": range[0],
                        "max": range[1],
                        "color": {"mode": "thresholds" if kind in ("stat", "bargauge") else "palette-classic"},
                        "thresholds": {"mode": "absolute", "steps": steps},
                        "custom": custom(kind, limit, stacked, scale),
                    }
                ),
                "overrides": overrides,
            },
            "options": OPTIONS[kind] | ({"xField": category} if category else {}),
            "transformations": transformations or None,
        }
    )


def without_none(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def link_to_runbook(alert: str) -> Json:
    return {
        "title": f"Runbook: {alert}",
        "type": "link",
        "url": f"/d/{UID}?viewPanel={RUNBOOK_ID}&${{__url_time_range}}&${{__all_variables}}",
        "icon": "doc",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": False,
        "keepTime": False,
    }


def row(title: str) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": 0, "w": COLUMNS, "h": 1}, "panels": []}


def runbook() -> Json:
    """Its text, so that it is where it is needed, whoever may read the repository."""
    text = RUNBOOK.read_text()
    return {
        "id": RUNBOOK_ID,
        "type": "text",
        "title": "Runbook",
        "gridPos": {"x": 0, "y": 0, "w": COLUMNS, "h": 24},
        "options": {"mode": "markdown", "content": text[text.index("## ") :]},
    }


def laid_out(panels: list[Json]) -> list[Json]:
    """From left to right and down, and numbered."""
    x, y, height = 0, 0, 0
    for number, one in enumerate(panels, RUNBOOK_ID + 1):
        if x + one["gridPos"]["w"] > COLUMNS:
            x, y, height = 0, y + height, 0
        one.setdefault("id", number)
        one["gridPos"] |= {"x": x, "y": y}
        x, height = x + one["gridPos"]["w"], max(height, one["gridPos"]["h"])
    return panels


def variable(name: str, label: str, series: str) -> Json:
    """The values of a label of these series, any number of them. "All" is also none at all, as where there are no namespaces."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": f"label_values({series}, {name})", "refId": name},
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "options": [],
    }


def dashboard() -> Json:
    """What Grafana imports."""
    panels: list[Json] = []
    for one in yaml.safe_load((HERE / "panels.yaml").read_text()):
        panels += [row(one["title"]), *(panel(**settings) for settings in one["panels"])]
    panels += [row("What to do about an alert?"), runbook()]
    raised = {"name": "Alerts", "datasource": SOURCE, "enable": True, "hide": False, "iconColor": "red"}
    return {
        "uid": UID,
        "title": "distgan",
        "description": "Training runs of distgan.",
        "tags": ["distgan"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "annotations": {"list": [raised | {"expr": of_chosen_runs('ALERTS{alertname=~"Distgan.+", alertstate="firing"}')}]},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1, "options": []},
                variable("namespace", "Namespace", "distgan_build_info"),
                variable("job", "Run", 'distgan_build_info{namespace=~"$namespace"}'),
            ]
        },
        "panels": laid_out(panels),
    }


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n")
