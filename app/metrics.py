"""What the service counts and measures, for Prometheus. Seconds are the unit; every series exists from the start.

In multi-process mode (PROMETHEUS_MULTIPROC_DIR set) counters and histograms add up over the processes; each gauge
says below how its processes' values combine. A worker's files bear its number, and its replacement goes on with them.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from app.bundle import Baseline
from app.exposition import prometheus_text

MODELS = ("student", "teacher")
NO_MODEL = "none"  # requests that fail before their model is known, and routes without one
STAGES = ("parse", "tokenize", "queue", "inference", "serialize")
REASONS = {429: "queue_full", 503: "unavailable", 504: "deadline"}  # by status
BOTH_MODELS = "/compare"  # and so its requests count for neither
MODEL_ROUTES = ("/encode", "/classify/{task}", "/v1/embeddings", BOTH_MODELS)
OTHER_ROUTES = (
    "/",
    "/page/{file}",
    "/v1/models",
    "/v1/models/{model}",
    "/models",
    "/tasks",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/admin/reload",
)
OTHER_STATUSES = (200, 304, 401, 404, 405, 409, 500, 503)
OTHER = "other"  # any path that is no route: clients must not be able to create series
REFUSALS = (400, 408, 431)  # of what never becomes a request, and so has no path either
CLIENT_GONE = 499  # nginx's number for a client that left before its answer
STATUSES = (200, 400, 401, 404, 405, 408, 409, 413, 422, 429, CLIENT_GONE, 500, 503, 504)

LOADS = ("loaded", "refused", "canary_failed")
SHADOWED = ("answered", "busy", "queue_full", "failed")
# Of the bundles whose manifest carries a baseline; `task` is empty for an encoder.
DRIFT = {
    "rows": "Rows of the last five minutes that drift was measured on",
    "unknown_ratio": "Share of their tokens that the vocabulary lacks",
    "mean_tokens": "Tokens in a row, special tokens included",
    "length_distance": "Total variation between the lengths of these rows and the baseline's",
    "vector_distance": "1 - cosine of the mean vectors of these rows and of the baseline",
    "prior_distance": "Total variation between the labels answered and the baseline's",
}


def _durations() -> Iterator[float]:
    """50 us, times 1.4, up to about 10 s: fine enough for a student that answers in well under a millisecond."""
    bound = 50e-6
    while bound < 10:
        yield round(bound, 9)
        bound *= 1.4


DURATIONS = tuple(_durations())
STAGE_DURATIONS = DURATIONS[::2]  # coarser: two models times five stages would be a third of the page
SIZES = tuple(float(2**power) for power in range(15))
RATIOS = tuple(step / 20 for step in range(20))
AGREEMENTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.999, 1.0)


class Metrics:
    """The service's metrics, in a registry of their own, so that tests can hold several."""

    def __init__(self) -> None:
        """Create every metric with every child."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a fifth of the page, and nobody asks when a series began
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "understudy_requests_total",
            "Requests answered, or left by their client (499)",
            ["route", "model", "status"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "understudy_request_duration_seconds",
            "From the first byte to the last of requests answered with 200",
            ["route", "model"],
            buckets=DURATIONS,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "understudy_stage_duration_seconds",
            "Time of a request in each stage",
            ["model", "stage"],
            buckets=STAGE_DURATIONS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "understudy_batch_rows", "Rows in a batch", ["model"], buckets=SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "understudy_batch_tokens",
            "Tokens in a batch, padding left out",
            ["model"],
            buckets=SIZES,
            registry=registry,
        )
        self.batch_padding = Histogram(
            "understudy_batch_padding_ratio",
            "Share of a batch that is padding",
            ["model"],
            buckets=RATIOS,
            registry=registry,
        )
        self.queue_tokens = Gauge(
            "understudy_queue_tokens",
            "Tokens that wait for a batch",
            ["model"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queue_age = Gauge(
            "understudy_queue_oldest_age_seconds",
            "How long the oldest job has been waiting",
            ["model"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.rejected = Counter(
            "understudy_rejected_total", "Requests refused or given up", ["model", "reason"], registry=registry
        )
        self.truncated = Counter(
            "understudy_truncated_total", "Sentences cut off at the model's limit", ["model"], registry=registry
        )
        self.loads = Counter(
            "understudy_loads_total", "Times that the models folder was read", ["outcome"], registry=registry
        )
        self.shadow_rows = Counter(
            "understudy_shadow_rows_total", "Rows sampled for the teacher", ["outcome"], registry=registry
        )
        self.shadow_cosine = Histogram(
            "understudy_shadow_cosine",
            "Cosine of the student's vector and the teacher's, of rows in the shadow",
            buckets=AGREEMENTS,
            registry=registry,
        )
        self.shadow_rank_agreement = Histogram(
            "understudy_shadow_rank_agreement",
            "Spearman's correlation of both models' similarities over the pairs of rows in the shadow",
            buckets=AGREEMENTS,
            registry=registry,
        )
        self.shadow_label_agreement = Counter(
            "understudy_shadow_label_agreement_total",
            "Inputs in the shadow that both models have labelled",
            ["task", "agree"],
            registry=registry,
        )
        self._drift = {
            name: Gauge(
                f"understudy_drift_{name}",
                meaning,
                ["model", "task"],
                # a process sees a part of the traffic; the one that is furthest off speaks for all
                multiprocess_mode="livesum" if name == "rows" else "livemax",
                registry=registry,
            )
            for name, meaning in DRIFT.items()
        }
        self._baseline = {
            name: Gauge(
                f"understudy_baseline_{name}",
                f"{DRIFT[name]}, in the baseline",
                ["model", "task"],
                multiprocess_mode="livemax",
                registry=registry,
            )
            for name in ("unknown_ratio", "mean_tokens")
        }
        self.cpu = Counter(
            "understudy_cpu_seconds_total", "CPU time used, the shadow's process apart", registry=registry
        )
        self.resident = Gauge(
            "understudy_resident_bytes",
            "Memory held, the shadow's process apart",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.lag = Gauge(
            "understudy_lag_seconds",
            "How late the event loop runs what is due",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._model_info = Gauge(
            "understudy_model_info",
            "1 for each bundle that is loaded",
            ["model", "role", "space", "sha256"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        worker_deaths(registry)
        build = Gauge(
            "understudy_build_info",
            "The service's version",
            ["version"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        build.labels(build_version()).set(1)
        self._create_children()

    def show_models(self, models: Iterable[tuple[str, str, str, str]]) -> None:
        """Set the loaded bundles: name, role, space and sha256 of each; earlier ones drop to 0."""
        # Multi-process mode cannot remove a series, so a bundle that is gone stays, as 0.
        for metric in self._model_info.collect():
            for sample in metric.samples:
                self._model_info.labels(**sample.labels).set(0)
        for labels in models:
            self._model_info.labels(*labels).set(1)

    def show_task(self, task: str) -> None:
        """Create the children of a task that has labels."""
        for agree in ("true", "false"):
            self.shadow_label_agreement.labels(task, agree)

    def show_baseline(self, model: str, task: str, baseline: Baseline) -> None:
        """Set what a bundle's traffic is held against."""
        for name, gauge in self._baseline.items():
            gauge.labels(model, task).set(getattr(baseline, name))

    def show_drift(self, model: str, task: str, figures: Mapping[str, float]) -> None:
        """Set what drift was measured."""
        for name, value in figures.items():
            self._drift[name].labels(model, task).set(value)

    def count_refused(self, status: int) -> None:
        """Count what was refused before it was a request: no HTTP, or a head too long or too late."""
        self.requests.labels(OTHER, NO_MODEL, status).inc()

    def exposition(self) -> bytes:
        """Write the Prometheus text format, over all processes."""
        several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        return prometheus_text(_Processes(None) if several else self._registry)  # type: ignore[no-untyped-call]

    def _create_children(self) -> None:
        for route in MODEL_ROUTES:
            for model in MODELS if route != BOTH_MODELS else (NO_MODEL,):
                self.request_duration.labels(route, model)
                for status in STATUSES:
                    self.requests.labels(route, model, status)
        for route in MODEL_ROUTES:
            for status in STATUSES:
                self.requests.labels(route, NO_MODEL, status)
        for route in (*OTHER_ROUTES, OTHER):
            for status in OTHER_STATUSES:
                self.requests.labels(route, NO_MODEL, status)
        for status in REFUSALS:
            self.requests.labels(OTHER, NO_MODEL, status)
        for model in MODELS:
            for metric in (self.batch_rows, self.batch_tokens, self.batch_padding, self.queue_tokens, self.queue_age):
                metric.labels(model)
            self.truncated.labels(model)
            for stage in STAGES:
                self.stage_duration.labels(model, stage)
        for outcome in LOADS:
            self.loads.labels(outcome)
        for outcome in SHADOWED:
            self.shadow_rows.labels(outcome)
        for model in (*MODELS, NO_MODEL):
            for reason in REASONS.values():
                self.rejected.labels(model, reason)


class _Processes(MultiProcessCollector):
    def collect(self) -> Iterable[Metric]:
        """Add up what the processes' files hold; one that was just created is empty for a moment, and no error."""
        files = [file for file in Path(self._path).glob("*.db") if _size(file)]
        return self.merge(files)  # type: ignore[no-any-return, no-untyped-call]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a process has ended meanwhile
        return 0


def worker_deaths(registry: CollectorRegistry) -> Counter:
    """Create the one metric that is the supervisor's; the processes that serve only show it."""
    return Counter(
        "understudy_worker_deaths_total", "Workers that ended without being told to, of several", registry=registry
    )


def keep_as(name: str) -> None:
    """In multi-process mode, keep the values of all metrics yet to be made in files of this name.

    Counters and histograms go on from what is there. Were files named after process ids, as is prometheus-client's
    default, those of the dead would have to stay, so that no sum ever falls, and be read at every scrape.
    """
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]


def build_version() -> str:
    """Tell the installed version, or `unknown` in a plain checkout."""
    try:
        return version("understudy")
    except PackageNotFoundError:
        return "unknown"


def clear_stale(folder: Path) -> None:
    """Remove what processes of an earlier run left in the multi-process folder: it would be counted again."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()
