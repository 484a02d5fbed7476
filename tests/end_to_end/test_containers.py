"""docker-compose.yml for real: built, started, asked, looked into, stopped, and gone without a trace."""

import json
import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
SENTENCES = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell."]
# What Grafana would put in.
VARIABLES = {"$route": "/encode", "$__rate_interval": "1m"}
# Nothing waits, is refused or fails in a healthy service with little traffic.
MAY_BE_ZERO = {"Queue", "Oldest job's wait", "Refused or given up", "Alerts firing", "Unknown tokens"}
# No teacher of a task ships, and so no labels are compared.
NEEDS_TEACHERS_TASK = {f'understudy:fidelity:{figure}{{task!=""}}' for figure in ("mean", "samples")}
LABEL = "label=com.docker.compose.project"
MOST_BYTES = 350e6  # that the image adds to its base, models and teacher included

pytestmark = pytest.mark.slow
T = TypeVar("T")

INSIDE = """
import importlib.util, json, os, pathlib, shutil, sys, tempfile

AVOIDED = ("torch", "transformers", "onnx", "training", "export")
ADDED = (sys.prefix, os.getcwd())

def writes(folder):
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return os.strerror(error.errno)
    return "written"

status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "user": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "root": writes("/"), "home": writes("."), "tmp": writes("/tmp"),
    "installed": [name for name in AVOIDED if importlib.util.find_spec(name)],
    "compilers": [name for name in ("cc", "gcc", "clang") if shutil.which(name)],
    "bytes": sum(file.lstat().st_size for top in ADDED for file in pathlib.Path(top).rglob("*") if not file.is_dir()),
}))
"""


@dataclass(frozen=True)
class Stack:
    """The three containers under a project name of their own, and where they are reached from here."""

    compose: tuple[str, ...]
    environment: dict[str, str]
    project: str
    service: httpx.Client
    prometheus: httpx.Client
    grafana: httpx.Client

    def run(self, *arguments: str, seconds: float = 120) -> str:
        """Run a command of Compose; its own words are the error."""
        return words([*self.compose, *arguments], self.environment, seconds)

    def query(self, expr: str) -> list[float]:
        """Ask Prometheus: the value of each series now."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def firing(self) -> set[str]:
        """Name the alerts that fire."""
        alerts = self.prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def words(command: list[str], environment: dict[str, str] | None = None, seconds: float = 60) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def answers(command: list[str]) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True).returncode == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(look: Callable[[], T], what: object, seconds: float = 90) -> T:
    """Look until there is something to see, and give it; what only ever polls can tell has no event to wait for."""
    end = time.monotonic() + seconds
    while True:
        try:
            if seen := look():
                return seen
        except httpx.TransportError as error:  # not up yet
            what = f"{what} ({error!r})" if time.monotonic() > end else what
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Build, start, and wait as depends_on says; take everything down afterwards."""
    if not answers(["docker", "info"]):
        pytest.skip("no Docker engine answers")
    tool = next((tool for tool in (["docker", "compose"], ["docker-compose"]) if answers([*tool, "version"])), None)
    if tool is None:
        pytest.skip("Docker Compose is not installed")
    project = f"understudy-test-{os.getpid()}"
    service, prometheus, grafana = free_ports(3)
    own = {"UNDERSTUDY_PORT": service, "PROMETHEUS_PORT": prometheus, "GRAFANA_PORT": grafana}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "COMPOSE_"))}
    clients = [httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) for port in own.values()]
    nothing = tmp_path_factory.mktemp("compose") / "empty.env"  # and not the .env that may lie in the checkout
    nothing.touch()
    compose = (*tool, "--env-file", str(nothing), "--project-name", project)
    stack = Stack(compose, {**kept, **{name: str(port) for name, port in own.items()}}, project, *clients)
    try:
        stack.run("build", seconds=1800)
        try:
            stack.run("up", "-d", seconds=300)
        except AssertionError as error:
            raise AssertionError(stack.run("logs", "--tail", "30")) from error
        yield stack
    finally:
        stack.run("down", "--volumes", "--timeout", "10")
        for client in clients:
            client.close()


@pytest.fixture(scope="module")
def inside(stack: Stack) -> dict[str, Any]:
    """What a process in the service's container sees and may do."""
    seen: dict[str, Any] = json.loads(stack.run("exec", "-T", "understudy", "python", "-c", INSIDE))
    return seen


def panel_queries() -> list[tuple[str, str]]:
    """Give title and expression of every query, with Grafana's variables put in."""
    found = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"]
                for name, value in VARIABLES.items():
                    expr = expr.replace(name, value)
                found.append((panel["title"], expr))
    return found


def send_traffic(stack: Stack) -> None:
    """Ask each model as often as a rate needs to be seen, and the student so often that the shadow takes a share."""
    for model, times in (("student", 100), ("teacher", 10)):
        for _ in range(times):
            stack.service.post("/encode", json={"sentences": SENTENCES, "model": model}).raise_for_status()
    stack.service.post("/classify/sst2", json={"sentences": SENTENCES}).raise_for_status()
    stack.service.post("/encode", json={"sentences": "long " * 400}).raise_for_status()  # is truncated
    assert stack.service.post("/encode", json={"sentences": []}).status_code == 422


def test_all_become_healthy_each_after_the_one_that_it_reads(stack):
    def state(name: str) -> dict[str, Any]:
        container = stack.run("ps", "-q", name).strip()
        seen: dict[str, Any] = json.loads(words(["docker", "inspect", "--format", "{{json .State}}", container]))
        return seen

    names = ("understudy", "prometheus", "grafana")
    for name in names:
        until(lambda name=name: state(name)["Health"]["Status"] == "healthy", f"{name} healthy")
    started = [state(name)["StartedAt"] for name in names]
    assert started == sorted(started)


def test_prometheus_scrapes_the_service_and_every_rule_holds(stack):
    until(lambda: stack.query('up{job="understudy"}') == [1.0], "the target up")
    (target,) = stack.prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert target["health"] == "up", target["lastError"]

    def evaluated() -> list[dict[str, Any]]:
        groups = stack.prometheus.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    assert not [rule for rule in until(evaluated, "all rules evaluated") if rule["health"] != "ok"]


def test_without_traffic_no_panel_shows_nan(stack):
    assert not [title for title, expr in panel_queries() if any(map(math.isnan, stack.query(expr)))]


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_vectors_come_through_the_published_port(stack, model):
    answer = stack.service.post("/encode", json={"sentences": SENTENCES, "model": model})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model"] == model
    assert [len(vector) for vector in body["embeddings"]] == [body["dimensions"]] * len(SENTENCES)


def test_labels_come_through_the_published_port(stack):
    answer = stack.service.post("/classify/sst2", json={"sentences": ["A wonderful film.", "A dreadful film."]})
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert len(predictions) == 2
    assert all(prediction["label"] in prediction["scores"] for prediction in predictions)


def test_the_service_runs_as_nobody_in_particular_and_writes_only_to_tmp(inside):
    assert inside["user"] != 0
    assert inside["capabilities"] == 0
    assert inside["no_new_privileges"] == "1"
    assert inside["root"] == inside["home"] == os.strerror(30)  # EROFS
    assert inside["tmp"] == "written"


def test_the_image_holds_neither_torch_nor_a_compiler(inside):
    assert inside["installed"] == []
    assert inside["compilers"] == []


def test_the_image_adds_little_to_its_base(inside):
    print(f"the image adds {inside['bytes'] / 1e6:.0f} MB to its base")  # noqa: T201
    assert inside["bytes"] < MOST_BYTES


def test_after_traffic_every_query_has_values(stack):
    until(lambda: stack.query('up{job="understudy"}') == [1.0], "a first scrape: rates begin there")
    unanswered = {(title, expr) for title, expr in panel_queries() if expr not in NEEDS_TEACHERS_TASK}

    def still_unanswered() -> set[tuple[str, str]]:
        """Send more, and forget every query that has had values by now, as bursts come and go."""
        send_traffic(stack)
        for title, expr in list(unanswered):
            values = stack.query(expr)
            assert not any(map(math.isnan, values)), title
            if any(values) or (values and title in MAY_BE_ZERO):
                unanswered.discard((title, expr))
        return unanswered

    until(lambda: not still_unanswered(), unanswered, seconds=180)


def test_grafana_found_the_dashboard_and_its_datasource(stack):
    health = until(lambda: stack.grafana.get("/api/health").json(), "Grafana")
    assert health["database"] == "ok"
    if "version" in health:
        shown = stack.grafana.get("/api/dashboards/uid/understudy").json()["dashboard"]
        assert len(shown["panels"]) == len(json.loads((DASHBOARDS / "understudy.json").read_text())["panels"])
        assert stack.grafana.get("/api/datasources/uid/understudy-prometheus/health").json()["status"] == "OK"
    else:  # a stand-in that reads the same provisioning files, and runs every query that they lead to
        check = stack.grafana.get("/api/check").json()
        assert len(check["queries"]) == len(panel_queries())
        failed = [query for query in check["queries"] if query["status"] != "success" or not query["series"]]
        assert {query["expr"] for query in failed} <= NEEDS_TEACHERS_TASK


def test_stopping_is_clean_and_noticed(stack):
    container = stack.run("ps", "-q", "understudy").strip()
    stack.run("stop", "understudy")
    state = json.loads(words(["docker", "inspect", "--format", "{{json .State}}", container]))
    assert state["ExitCode"] == 0
    until(lambda: "UnderstudyDown" in stack.firing(), "the alert")
    stack.run("start", "understudy")
    until(lambda: "UnderstudyDown" not in stack.firing(), "the alert cleared")


def test_down_leaves_nothing_behind(stack):
    stack.run("down", "--volumes")
    for listing in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert words(["docker", *listing, "--quiet", "--filter", f"{LABEL}={stack.project}"]) == ""
