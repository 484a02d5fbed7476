import math
import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.exposition import prometheus_text
from benchmarks.scrape import loaded_metrics

ROOT = Path(__file__).parents[2]
ODD = ('say "it"', "two\nlines", "back\\slash\\n", "Grüße 你好", "", " ")
IN_SEVERAL_PROCESSES = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from benchmarks.scrape import loaded_metrics
metrics = loaded_metrics()
metrics.requests.labels("/encode", "student", 200).inc(3)
metrics.request_duration.labels("/encode", "student").observe(0.01)
registry = CollectorRegistry()
MultiProcessCollector(registry)
page = metrics.exposition()
assert page == generate_latest(registry)
assert b'understudy_requests_total{model="student",route="/encode",status="200"} 3.0' in page
"""


def test_every_series_of_the_service_is_written_as_prometheus_client_writes_it():
    metrics = loaded_metrics()
    for _ in range(2):  # at first, and from what is kept
        assert metrics.exposition() == generate_latest(metrics._registry)
        metrics.requests.labels("/encode", "student", 200).inc()
        metrics.request_duration.labels("/encode", "student").observe(0.003)


def test_odd_labels_helps_and_values_are_written_as_prometheus_client_writes_them():
    registry = CollectorRegistry()
    gauge = Gauge("gauge", 'A "help"\nof two lines, with \\ in it', ["zebra", "apple"], registry=registry)
    for odd in ODD:
        gauge.labels(odd, "plain").set(1)
    for value in (0, -1.5, 1e-9, 123_456_789_012_345_678, math.inf, -math.inf, math.nan):
        gauge.labels("plain", str(value)).set(value)
    Counter("events", "With children or without", registry=registry).inc(2)
    Counter("empty_total", "No child yet", ["a"], registry=registry)
    Histogram("sizes", "Buckets", ["kind"], buckets=(0.5, 1e6), registry=registry).labels("x").observe(3)
    page = prometheus_text(registry)
    assert page == generate_latest(registry)
    (family,) = (found for found in text_string_to_metric_families(page.decode()) if found.name == "gauge")
    assert {sample.labels["zebra"] for sample in family.samples} == {*ODD, "plain"}


def test_in_several_processes_too(tmp_path: Path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", IN_SEVERAL_PROCESSES], cwd=ROOT, env=environment, check=True)
