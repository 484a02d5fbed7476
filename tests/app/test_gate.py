import json
import logging
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from app.logs import JsonFormatter
from app.metrics import MODEL_ROUTES, OTHER_ROUTES

Serve = Callable[..., TestClient]


@pytest.mark.parametrize(("sent", "kept"), [("a-b_C.9", True), ("x" * 129, False), ("a b", False), ("é", False)])
def test_a_request_id_is_kept_if_it_is_harmless(client: TestClient, sent: str, kept: bool) -> None:
    answer = client.get("/health/live", headers={"x-request-id": sent.encode()})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}, {"authorization": "Basic sesame"}]
)
def test_without_the_key_no_model_runs(serve: Serve, headers: dict[str, str]) -> None:
    client = serve(api_key="sesame")
    for method, path in (("POST", "/encode"), ("GET", "/models"), ("GET", "/nix")):
        refused = client.request(method, path, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["type"] == "unauthorized"
        assert refused.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"])
def test_health_metrics_and_documentation_need_no_key(serve: Serve, path: str) -> None:
    assert serve(api_key="sesame").get(path).status_code == 200


def test_with_the_key_all_is_as_without(serve: Serve) -> None:
    client = serve(api_key="sesame")
    answer = client.post("/encode", json={"sentences": "good"}, headers={"authorization": "bearer sesame"})
    assert answer.status_code == 200


def test_a_request_leaves_one_line_without_a_word_of_its_content(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post("/encode", json={"sentences": "zebra crossing"}, headers={"x-request-id": "one"})
        client.post("/encode", json={"zebra": "crossing"})
        client.post("/encode", content=b'"zebra')
        client.post("/classify/zebra", json={"sentences": "zebra"})
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("app")]
    assert len(lines) == 4
    assert "zebra" not in "".join(lines)
    line = json.loads(lines[0])
    assert line.pop("time").endswith("+00:00")
    assert line.pop("milliseconds") > 0
    assert line == {
        "level": "info",
        "logger": "app.gate",
        "message": "request",
        "request_id": "one",
        "method": "POST",
        "route": "/encode",
        "status": 200,
        "model": "student",
        "rows": 1,
        "tokens": 4,
    }


@pytest.mark.parametrize(
    ("status", "headers"), [(206, {"range": "bytes=0-1"}), (304, {}), (416, {"range": "bytes=99999999-"})]
)
def test_an_answer_of_any_status_is_counted(client: TestClient, status: int, headers: dict[str, str]) -> None:
    kept = {"if-none-match": client.get("/").headers["etag"]}
    assert client.get("/", headers=headers or kept).status_code == status
    assert f'understudy_requests_total{{model="none",route="/",status="{status}"}} 1.0' in client.get("/metrics").text


def test_a_bug_is_answered_with_500_and_logged_without_its_message(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_role: str) -> None:
        raise KeyError("zebra")

    monkeypatch.setattr(client.app.state.service.catalogue, "encoder", fail)
    answer = client.post("/encode", json={"sentences": "good"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal")
    record = next(record for record in caplog.records if record.levelname == "ERROR")
    line = json.loads(JsonFormatter().format(record))
    assert line["exception"] == "KeyError"
    assert line["request_id"] == answer.headers["x-request-id"]
    assert any("test_gate.py" in place for place in line["stack"])
    assert "zebra" not in json.dumps(line)


def test_every_declared_route_has_its_own_series(serve: Serve) -> None:
    client = serve(admin=True, api_key="sesame")
    declared = set(client.get("/openapi.json").json()["paths"])
    assert declared | {"/", "/page/{file}", "/docs", "/openapi.json"} == {*MODEL_ROUTES, *OTHER_ROUTES}
