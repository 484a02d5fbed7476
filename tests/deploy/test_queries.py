"""Every PromQL expression asks for what is there: metrics, labels and label values that the service exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.drift import RowCounter, baseline_of
from app.metrics import DRIFT, MODEL_ROUTES, Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = [
    rule
    for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARDS = [json.loads(file.read_text()) for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))]
BASELINE = baseline_of(RowCounter(None, 1).count([[1]], np.ones((1, 1), np.float32)))
SCRAPES = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]

STRING = r'"(?:\\.|[^"\\])*"'
SELECTOR = re.compile(
    rf'{STRING}|(?<![\w.:])(?P<name>[a-zA-Z_:][\w:]*)\s*(?P<matchers>\{{(?:{STRING}|[^"}}])*\}})?(?P<call>\s*\()?'
)
MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({STRING})")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[(?:\$\w+|\d+[smhdwy])[^\]]*\]")
WORDS = {"and", "or", "unless", "bool", "offset", "sum", "min", "max", "avg", "count"}


class Series(NamedTuple):
    """One series: a metric's name and its labels."""

    name: str
    labels: dict[str, str]


class Matcher(NamedTuple):
    """One condition in braces."""

    label: str
    operator: str
    value: str

    def accepts(self, labels: dict[str, str]) -> bool:
        found = labels.get(self.label, "")
        same = re.fullmatch(self.value, found) if "~" in self.operator else self.value == found
        return bool(same) == (self.operator[0] == "=")


def selectors(expr: str) -> Iterator[tuple[str, list[Matcher]]]:
    """Find the metric names in PromQL, each with its matchers."""
    for hit in SELECTOR.finditer(GROUPING.sub(" ", RANGE.sub("", expr.replace("$route", MODEL_ROUTES[0])))):
        if hit["name"] and not hit["call"] and hit["name"] not in WORDS:
            matchers = MATCHER.findall(hit["matchers"] or "")
            yield hit["name"], [Matcher(label, operator, json.loads(value)) for label, operator, value in matchers]


def exported() -> list[Series]:
    """Every series that the service exports before its first request, and those that Prometheus itself makes."""
    metrics = Metrics()
    metrics.show_models([("student", "student", "0" * 16, "0" * 64)])
    metrics.show_task("sst2")
    metrics.show_baseline("student", "sst2", BASELINE)
    metrics.show_drift("student", "sst2", dict.fromkeys(DRIFT, 0.0))
    families = text_string_to_metric_families(metrics.exposition().decode())
    series = [Series(sample.name, dict(sample.labels)) for family in families for sample in family.samples]
    series += [Series("up", {"job": scrape["job_name"]}) for scrape in SCRAPES]
    alerts = [rule["alert"] for rule in RULES if "alert" in rule]
    return series + [Series("ALERTS", {"alertname": name, "alertstate": "firing"}) for name in alerts]


SERIES = exported()
LABELS = {label for series in SERIES for label in series.labels} | {
    label for rule in RULES if "record" in rule for label in rule.get("labels", {})
}


def recorded(name: str, matchers: list[Matcher]) -> bool:
    """Whether a recording rule makes such series, as far as the labels tell that it sets itself."""
    made = [rule.get("labels", {}) for rule in RULES if rule.get("record") == name]
    return any(all(matcher.accepts(labels) for matcher in matchers if matcher.label in labels) for labels in made)


def missing(expr: str) -> list[str]:
    """Name what an expression asks for in vain."""
    found = list(selectors(expr))
    assert found, f"no metric in {expr}"
    series = [
        f"{name}{{{matchers}}}"
        for name, matchers in found
        if not recorded(name, matchers)
        and not any(name == series.name and all(m.accepts(series.labels) for m in matchers) for series in SERIES)
    ]
    return series + [
        label for labels in GROUPING.findall(expr) for label in re.findall(r"\w+", labels) if label not in LABELS
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_rule_asks_for_what_is_exported(rule):
    assert rule["expr"].startswith("vector(") or not missing(rule["expr"])


@pytest.mark.parametrize(
    ("title", "expr"),
    [
        (panel["title"], target["expr"])
        for dashboard in DASHBOARDS
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ],
)
def test_every_panel_asks_for_what_is_exported(title, expr):
    assert not missing(expr)


@pytest.mark.parametrize(
    "expr",
    [
        "rate(understudy_request_total[5m])",
        'rate(understudy_stage_duration_seconds_sum{stage="tokenise"}[5m])',
        'rate(understudy_stage_duration_seconds_sum{step="queue"}[5m])',
        'understudy_rejected_total{reason=~"queue|late"}',
        'understudy:request_duration_seconds:quantile{quantile="p90"}',
        "understudy:request_duration_seconds:p99",
        'up{job="elsewhere"}',
        "sum by (modle) (rate(understudy_batch_rows_sum[1m]))",
        "sum by (model) (rate(understudy_batch_rows_sum[1m])) / sum by (model) (rate(understudy_batches[1m])) > 0",
    ],
)
def test_a_misspelt_metric_label_or_value_is_noticed(expr):
    assert len(missing(expr)) == 1


def test_only_metric_names_are_taken_for_metrics():
    expr = """sum by (le, model) (rate(a_bucket{route="/classify/{task}", x!~"y|z"}[$__rate_interval])) * 1e3
        / on (model) group_left () (b:c:d > bool 0) or vector(0) unless label_replace(e, "f", "$1", "g", "h")"""
    assert [name for name, _ in selectors(expr)] == ["a_bucket", "b:c:d", "e"]
    assert next(selectors(expr))[1] == [Matcher("route", "=", "/classify/{task}"), Matcher("x", "!~", "y|z")]


def test_every_alert_says_what_happened_and_what_to_do():
    alerts = [rule for rule in RULES if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} <= alert["annotations"].keys()
