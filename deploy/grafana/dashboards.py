"""The Grafana dashboard, written from one list of panels.

python -m deploy.grafana.dashboards     writes deploy/grafana/dashboards/understudy.json anew
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.metrics import BOTH_MODELS, MODEL_ROUTES, MODELS

FILE = Path(__file__).parent / "dashboards" / "understudy.json"
DATASOURCE = {"type": "prometheus", "uid": "understudy-prometheus"}
ROUTES = tuple(route for route in MODEL_ROUTES if route != BOTH_MODELS)
WIDTH, HEIGHT = 24, 8  # Grafana's grid, and the height of a panel on it


@dataclass(frozen=True)
class Query:
    """One PromQL expression. A legend names the labels that tell its series apart."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        queries: Drawn together.
        unit: Grafana's name of the unit.
        note: What a reader has to know to read it right.
        kind: A curve over time, one big number, or a table of labels.
        log: A logarithmic axis, for what spans magnitudes.
        stacked: Parts of a whole.
        decimals: Digits after the point.
        empty: What a number's place says while there is nothing to count.
        columns: For a table: its labels, in order.
        width: On the grid, 24 wide; without it, the row's panels share what is left.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    note: str = ""
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    log: bool = False
    stacked: bool = False
    decimals: int | None = None
    empty: str = "no traffic"
    columns: tuple[str, ...] = ()
    width: int | None = None


@dataclass(frozen=True)
class Row:
    """Panels side by side."""

    title: str
    panels: tuple[Panel, ...]


def latency(model: str) -> Panel:
    """One model's p50, p95 and p99 on the chosen route, with its objective."""
    return Panel(
        f"{model.capitalize()}: latency on $route",
        (
            Query(f'understudy:request_duration_seconds:quantile{{model="{model}", route="$route"}}', "{{quantile}}"),
            Query(f'understudy:request_duration_seconds:objective{{model="{model}"}}', "objective of p99"),
        ),
        unit="s",
        note="Whole requests of the last five minutes that were answered with 200. Mind the axis: it is logarithmic.",
        log=True,
        width=6,
    )


def stages(model: str) -> Panel:
    """Where one model's requests spend their time, on average."""
    return Panel(
        f"{model.capitalize()}: mean time per stage",
        (Query(mean("understudy_stage_duration_seconds", f'{{model="{model}"}}', by="stage"), "{{stage}}"),),
        unit="s",
        note="queue is waiting for a batch; inference is the whole batch's, which a request shares with others.",
        stacked=True,
    )


def slow_stages(model: str) -> Panel:
    """The slowest hundredth of each stage."""
    buckets = f'rate(understudy_stage_duration_seconds_bucket{{model="{model}"}}[$__rate_interval])'
    return Panel(
        f"{model.capitalize()}: p99 per stage",
        (Query(f"histogram_quantile(0.99, sum by (stage, le) ({buckets})) >= 0", "{{stage}}"),),
        unit="s",
        note="Quantiles of stages do not add up to the quantile of the whole.",
        log=True,
    )


def baseline(gauge: str) -> Query:
    """What a bundle says of the texts it was made for, beside those of its traffic; absent while it has none."""
    rows = "max by (model, task) (understudy_drift_rows)"
    return Query(f"max by (model, task) ({gauge}) and {rows} > 0", "{{model}} {{task}} baseline")


def mean(histogram: str, matchers: str = "", by: str = "model") -> str:
    """PromQL for the mean of what a histogram observed; absent, not NaN, while it observed nothing."""
    total, count = (
        f"sum by ({by}) (rate({histogram}_{part}{matchers}[$__rate_interval]))" for part in ("sum", "count")
    )
    return f"{total} / ({count} > 0)"


ROWS = (
    Row(
        "Student beside teacher",
        (
            *map(latency, MODELS),
            Panel(
                "Speed-up on $route (median)",
                (Query('understudy:speedup:ratio{route="$route", quantile="p50"}', "median"),),
                unit="suffix:x",
                note="The teacher's median latency divided by the student's, each over the requests that it got in the "
                "last five minutes: a fair figure only while both get requests of like size. Precisions: GET /models.",
                kind="stat",
                decimals=1,
                empty="needs traffic to both",
                width=3,
            ),
            Panel(
                "Throughput",
                (Query("sum by (model) (rate(understudy_batch_rows_sum[$__rate_interval]))", "{{model}}"),),
                unit="suffix: sentences/s",
                note="Sentences that came out of a model, a pair counting as two where its halves are encoded apart.",
                width=4,
            ),
            Panel(
                "Fidelity",
                (
                    Query('understudy:fidelity:mean{task=""}', "{{measure}}"),
                    Query('understudy:fidelity:mean{task!=""}', "{{measure}} on {{task}}"),
                ),
                note="How alike the teacher answered what the shadow showed it in the last half hour: 1 is the same. "
                "The number of samples, below, says how much to trust it.",
                decimals=3,
                empty="nothing compared yet",
            ),
        ),
    ),
    Row(
        "Fidelity",
        (
            Panel(
                "Samples of the last half hour",
                (
                    Query('understudy:fidelity:samples{task=""}', "{{measure}}"),
                    Query('understudy:fidelity:samples{task!=""}', "{{measure}} on {{task}}"),
                ),
                note="Rows for the cosine, groups of 32 rows for the rank agreement, inputs for labels.",
                decimals=0,
            ),
            Panel(
                "Cosine of student and teacher",
                tuple(
                    Query(
                        f"histogram_quantile({share}, sum by (le) (increase(understudy_shadow_cosine_bucket[30m])))"
                        " >= -1",
                        legend,
                    )
                    for share, legend in ((0.1, "lowest tenth below"), (0.5, "median"), (0.9, "highest tenth above"))
                ),
                note="Over the rows of the last half hour; as fine as the histogram's buckets.",
                decimals=3,
                empty="nothing compared yet",
            ),
            Panel(
                "Shadow",
                (Query("sum by (outcome) (rate(understudy_shadow_rows_total[$__rate_interval]))", "{{outcome}}"),),
                unit="suffix: rows/s",
                note="Of the sample, answered by the teacher or dropped: busy, since the student had a queue; "
                "queue_full, since the shadow may take only UNDERSTUDY_SHADOW_CPU_SHARE of the cores.",
            ),
        ),
    ),
    Row("Where the time goes", (*map(stages, MODELS), *map(slow_stages, MODELS))),
    Row(
        "Batches",
        (
            Panel("Rows per batch", (Query(mean("understudy_batch_rows"), "{{model}}"),), decimals=1),
            Panel("Tokens per batch", (Query(mean("understudy_batch_tokens"), "{{model}}"),), decimals=0),
            Panel(
                "Padding",
                (Query(mean("understudy_batch_padding_ratio"), "{{model}}"),),
                unit="percentunit",
                note="Share of a batch that is computed for nothing: rows of unlike length side by side.",
            ),
        ),
    ),
    Row(
        "Waiting, refused, failed",
        (
            Panel(
                "Queue",
                (Query("sum by (model) (understudy_queue_tokens)", "{{model}}"),),
                unit="suffix: tokens",
                note="Tokens that wait for a batch; beyond UNDERSTUDY_QUEUE_TOKENS requests are refused.",
            ),
            Panel(
                "Oldest job's wait",
                (Query("max by (model) (understudy_queue_oldest_age_seconds)", "{{model}}"),),
                unit="s",
            ),
            Panel(
                "Refused or given up",
                (
                    Query(
                        "sum by (model, reason) (rate(understudy_rejected_total[$__rate_interval]))",
                        "{{model}} {{reason}}",
                    ),
                ),
                unit="reqps",
            ),
            Panel(
                "Errors by status",
                (
                    Query(
                        'sum by (status) (rate(understudy_requests_total{status=~"[45].."}[$__rate_interval]))',
                        "{{status}}",
                    ),
                ),
                unit="reqps",
                note="The clients' own mistakes included, and what is no HTTP (400, 408, 431 of the route other).",
            ),
        ),
    ),
    Row(
        "Resources",
        (
            Panel(
                "CPU",
                (Query("sum(rate(understudy_cpu_seconds_total[$__rate_interval]))", "cores in use"),),
                unit="suffix: cores",
                decimals=2,
                note="What serves requests; the shadow's process comes on top, with at most its share.",
            ),
            Panel(
                "Memory",
                (Query("sum(understudy_resident_bytes)", "resident"),),
                unit="bytes",
                note="What serves requests; the shadow's process holds the teacher a second time.",
            ),
            Panel(
                "Event loop's lateness",
                (Query("max(understudy_lag_seconds)", "late"),),
                unit="s",
                note="How late the process reads requests; beyond UNDERSTUDY_LAG_SECONDS new ones are refused.",
            ),
        ),
    ),
    Row(
        "Drift from what the models were made for",
        (
            Panel(
                "Distances from the baseline",
                (
                    Query("max by (model, task) (understudy_drift_vector_distance)", "{{model}} {{task}} mean vector"),
                    Query("max by (model, task) (understudy_drift_length_distance)", "{{model}} {{task}} lengths"),
                    Query("max by (model, task) (understudy_drift_prior_distance)", "{{model}} {{task}} labels"),
                ),
                note="Of the rows of the last five minutes; 0 is the same. Alerts begin at 0.5, for labels at 0.2.",
                decimals=3,
                width=9,
            ),
            Panel(
                "Unknown tokens",
                (
                    Query("max by (model, task) (understudy_drift_unknown_ratio)", "{{model}} {{task}}"),
                    baseline("understudy_baseline_unknown_ratio"),
                ),
                unit="percentunit",
            ),
            Panel(
                "Tokens in a sentence",
                (
                    Query("max by (model, task) (understudy_drift_mean_tokens)", "{{model}} {{task}}"),
                    baseline("understudy_baseline_mean_tokens"),
                ),
                decimals=1,
            ),
            Panel(
                "Rows that this rests on",
                (Query("sum by (model, task) (understudy_drift_rows)", "{{model}} {{task}}"),),
                note="Of the last five minutes, at most 256 a second. Alerts wait for 500.",
                decimals=0,
            ),
        ),
    ),
    Row(
        "Service",
        (
            Panel(
                "Requests by route",
                (Query("sum by (route) (rate(understudy_requests_total[$__rate_interval]))", "{{route}}"),),
                unit="reqps",
            ),
            Panel(
                "Truncated sentences",
                (Query("sum by (model) (rate(understudy_truncated_total[$__rate_interval]))", "{{model}}"),),
                unit="suffix: sentences/s",
                note="Cut off at the model's max_tokens.",
            ),
            Panel(
                "Alerts firing",
                (Query('count(ALERTS{alertstate="firing", alertname=~"Understudy.+"}) or vector(0)', "firing"),),
                kind="stat",
                decimals=0,
            ),
            Panel(
                "Loaded bundles",
                (Query("max by (model, role, space, sha256) (understudy_model_info) == 1"),),
                kind="table",
                note="Precision and quality of each are in its manifest: GET /models.",
                empty="none",
                columns=("model", "role", "space", "sha256"),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Build Grafana's dashboard model (schema version 41, Grafana 11.6)."""
    return {
        "uid": "understudy",
        "title": "Understudy: student beside teacher",
        "description": "How fast the student answers beside its teacher, and what the service does meanwhile.",
        "tags": ["understudy"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_route_choice()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), start=1)],
    }


def _route_choice() -> dict[str, Any]:
    """The routes on which student and teacher can be compared: latencies of different routes are different things."""
    options = [{"text": route, "value": route, "selected": route == ROUTES[0]} for route in ROUTES]
    return {
        "name": "route",
        "label": "Route",
        "type": "custom",
        "query": ",".join(ROUTES),
        "options": options,
        "current": options[0],
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Lay the rows out from top to bottom."""
    top = 0
    for row in ROWS:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        yield {"type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        fixed = [panel.width for panel in row.panels if panel.width]
        shared = (WIDTH - sum(fixed)) // max(1, len(row.panels) - len(fixed))
        left = 0
        for panel in row.panels:
            width = panel.width or shared
            yield {**_panel(panel), "gridPos": {"x": left, "y": top + 1, "w": width, "h": HEIGHT}}
            left += width
        top += 1 + HEIGHT


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": panel.empty, "custom": {}}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    described = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "targets": [_target(number, query, panel) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    return {"timeseries": _timeseries, "stat": _stat, "table": _table}[panel.kind](panel, described)


def _target(number: int, query: Query, panel: Panel) -> dict[str, Any]:
    instant = panel.kind == "table"
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": "table" if instant else "time_series",
        "instant": instant,
        "range": not instant,
    }


def _timeseries(panel: Panel, described: dict[str, Any]) -> dict[str, Any]:
    custom = described["fieldConfig"]["defaults"]["custom"]
    custom |= {"lineWidth": 2, "fillOpacity": 30 if panel.stacked else 0, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    if panel.log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    else:
        described["fieldConfig"]["defaults"]["min"] = 0
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return {**described, "options": options}


def _stat(_panel: Panel, described: dict[str, Any]) -> dict[str, Any]:
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "center",
        "textMode": "value",
    }
    return {**described, "options": options}


def _table(panel: Panel, described: dict[str, Any]) -> dict[str, Any]:
    """Show labels, and neither the time nor the value, which is 1."""
    organise = {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, "Value": True},
            "indexByName": {column: place for place, column in enumerate(panel.columns)},
            "renameByName": {},
        },
    }
    return {**described, "options": {"showHeader": True}, "transformations": [organise]}


def write(file: Path = FILE) -> None:
    """Write the dashboard as JSON."""
    file.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
