import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import EMBEDDINGS, VOCABULARY, encoder_graph, write_encoder, write_task
from conftest import Faults, Hold
from fastapi.testclient import TestClient
from waiting import until

from app.errors import ReloadError
from app.gate import Gate, Receive, Scope, Send
from app.main import create_app
from app.service import Alone, Load, Service
from app.settings import Settings
from app.tokenizer import Tokenizer

Serve = Callable[..., TestClient]
POISON = VOCABULARY.index("cat")


@pytest.fixture
def background() -> Iterator[Callable[..., Future]]:
    """Run calls in threads of their own."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


def encode(client: TestClient, *sentences: str, **rest: object):
    return client.post("/encode", json={"sentences": list(sentences) or ["good"], **rest})


def series(client: TestClient, name: str) -> float:
    """The value of one series, named as in the exposition."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


def test_it_is_alive_at_once_and_ready_once_its_models_are(serve: Serve, models_dir: Path, hold: Hold) -> None:
    with TestClient(create_app(Settings(models_dir=models_dir, lag_seconds=30))) as client:
        assert hold.entered.wait(60)  # the first canary runs
        assert client.get("/health/live").status_code == 200
        starting = client.get("/health/ready")
        assert (starting.status_code, starting.json()["error"]["type"]) == (503, "unavailable")
        refused = encode(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert client.get("/openapi.json").status_code == 200
        hold.release.set()
        client.portal.call(client.app.state.service.loaded.wait)
        assert client.get("/health/ready").json() == {"status": "ok"}
        assert encode(client).status_code == 200


def test_the_student_that_is_asked_for_serves(serve: Serve, tmp_path: Path) -> None:
    student, other = write_encoder(tmp_path), write_encoder(tmp_path, name="other", space="0" * 16)
    assert encode(serve(models_dir=tmp_path)).json()["space"] == student.manifest.space
    assert encode(serve(models_dir=tmp_path, student="other")).json()["space"] == other.manifest.space


def test_a_bundle_that_cannot_be_served_keeps_it_from_being_ready(serve: Serve, tmp_path: Path) -> None:
    client = serve(models_dir=tmp_path)
    assert client.app.state.service.failure == f"{tmp_path} holds no bundle; `python -m export student` builds one"
    assert client.get("/health/ready").status_code == 503


def test_draining_refuses_new_requests_and_answers_the_admitted(serve: Serve, hold: Hold, background) -> None:
    hold.release.set()
    client = serve()
    hold.release.clear()
    hold.entered.clear()
    admitted = background(encode, client)
    assert hold.entered.wait(60)
    drained = client.portal.start_task_soon(client.app.state.service.drain)
    client.portal.call(asyncio.sleep, 0)
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    refused = encode(client)
    assert refused.json()["error"]["message"] == "the service is shutting down"
    assert refused.headers["connection"] == "close"  # what comes next on it would meet a closed one
    assert not drained.done()
    hold.release.set()
    assert drained.result(60) is True
    assert admitted.result(60).status_code == 200


def test_a_drain_that_takes_too_long_is_given_up(serve: Serve, faults: Faults, background) -> None:
    client = serve(drain_limit_seconds=0.01)
    held = faults.before = Hold()
    admitted = background(encode, client)
    assert held.entered.wait(60)
    assert client.portal.call(client.app.state.service.drain) is False
    held.release.set()
    assert admitted.result(60).status_code == 200


def test_past_its_deadline_a_request_is_given_up_and_never_runs(serve: Serve, faults: Faults) -> None:
    client = serve(deadline_seconds=0.05, threads=1)
    held = faults.before = Hold()
    rows: list[int] = []
    late = [encode(client), encode(client)]
    assert [answer.status_code for answer in late] == [504, 504]
    assert "UNDERSTUDY_DEADLINE_SECONDS is 0.05" in late[0].json()["error"]["message"]
    faults.before = lambda batch: rows.append(len(batch))
    held.release.set()
    client.app.state.service.settings.__dict__["deadline_seconds"] = 10.0
    assert encode(client, "good", "bad").status_code == 200
    assert sum(rows) == 2  # the second late request was dropped from the queue
    assert series(client, 'understudy_rejected_total{model="student",reason="deadline"}') == 2


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(serve: Serve, faults: Faults, background) -> None:
    client = serve(queue_tokens=8, threads=1)
    held = faults.before = Hold()
    running = background(encode, client)
    assert held.entered.wait(60)
    waiting = background(encode, client, "good film")
    until(lambda: series(client, 'understudy_queue_tokens{model="student"}') == 4)
    refused = encode(client, "a", "b")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "4 tokens are waiting, UNDERSTUDY_QUEUE_TOKENS is 8" in refused.json()["error"]["message"]
    assert series(client, 'understudy_rejected_total{model="student",reason="queue_full"}') == 1
    held.release.set()
    assert {running.result(60).status_code, waiting.result(60).status_code} == {200}


def test_the_metrics_do_not_wait_for_long_texts_to_be_tokenised(
    serve: Serve, background, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, held, rows = serve(), Hold(), Tokenizer.rows
    monkeypatch.setattr(Tokenizer, "rows", lambda self, inputs: (held(inputs), rows(self, inputs))[1])
    client.portal.call(lambda: asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1)))
    long = background(encode, client, "good " * 5000)
    assert held.entered.wait(60)
    scraped = background(client.get, "/metrics")
    try:
        assert scraped.result(30).status_code == 200
    finally:
        held.release.set()
    assert long.result(60).status_code == 200


def test_a_late_event_loop_refuses_requests_unread(serve: Serve) -> None:
    client = serve(lag_seconds=0.1)
    client.portal.call(time.sleep, 0.3)  # holds the event loop
    refused = encode(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "UNDERSTUDY_LAG_SECONDS is 0.1" in refused.json()["error"]["message"]
    until(lambda: encode(client).status_code == 200)


def test_a_row_on_which_the_model_fails_fails_alone(serve: Serve, faults: Faults, background) -> None:
    client = serve(threads=1)
    held = faults.before = Hold()
    first = background(encode, client)
    assert held.entered.wait(60)
    others = [background(encode, client, text) for text in ("good", "cat", "bad")]
    until(lambda: series(client, 'understudy_queue_tokens{model="student"}') == 9)

    def fail(rows) -> None:
        if any(POISON in row for row in rows):
            raise MemoryError("secret text")

    faults.before = fail
    held.release.set()
    assert [future.result(60).status_code for future in (first, *others)] == [200, 200, 500, 200]
    error = others[1].result().json()["error"]
    assert (error["type"], error["message"]) == ("model_failed", "the model failed on input 0: MemoryError")
    assert encode(client).status_code == 200


def test_an_answer_that_is_not_finite_is_an_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sick:
        def run(self, _names: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(feeds["lengths"]), 8), np.nan, np.float32)]

    engine = client.app.state.service.catalogue.encoder("student")
    monkeypatch.setattr(engine._session, "_session", Sick())
    answer = encode(client)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        500,
        "the model failed on input 0: NonFiniteError",
    )


def test_a_head_that_fails_fails_its_request(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_vectors: object) -> None:
        raise MemoryError

    monkeypatch.setattr(client.app.state.service.catalogue.task("mood", "student")._head, "run", fail)
    answer = client.post("/classify/mood", json={"sentences": "good"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the head of mood failed: MemoryError")


def test_a_model_that_hangs_makes_it_not_ready_and_then_not_alive(serve: Serve, faults: Faults) -> None:
    client = serve(deadline_seconds=0.01, unready_after_seconds=0.05, dead_after_seconds=0.05, threads=1)
    held = faults.before = Hold()
    assert encode(client).status_code == 504
    until(lambda: client.get("/health/ready").status_code == 503)
    assert "has been running for" in client.get("/health/ready").json()["error"]["message"]
    until(lambda: client.get("/health/live").status_code == 503)
    held.release.set()
    until(lambda: client.get("/health/ready").status_code == 200)
    assert client.get("/health/live").status_code == 200


def test_a_client_that_leaves_frees_its_place(serve: Serve, faults: Faults) -> None:
    client = serve(threads=1)
    held = faults.before = Hold()
    service: Service = client.app.state.service
    body = b'{"sentences": ["good", "bad"]}'
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent: list[dict] = []

    async def receive() -> dict:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [],
        "server": ("test", 80),
        "client": ("test", 1),
        "http_version": "1.1",
    }
    client.portal.call(client.app, dict(scope), receive, send)
    assert held.entered.is_set()
    assert sent == []
    assert service.in_flight == 0
    held.release.set()
    assert encode(client).status_code == 200
    assert series(client, 'understudy_queue_tokens{model="student"}') == 0
    assert series(client, 'understudy_requests_total{model="student",route="/encode",status="499"}') == 1


def test_reload_takes_new_bundles_and_drops_no_request(
    tmp_path: Path, serve: Serve, faults: Faults, background
) -> None:
    student = write_encoder(tmp_path)
    client = serve(models_dir=tmp_path, admin=True, api_key="key", threads=1)
    client.headers["authorization"] = "Bearer key"
    old = client.app.state.service.catalogue.encoder("student")
    held = Hold()
    faults.before = lambda rows: held(rows) if threading.current_thread().name.startswith("student-") else None
    admitted = background(encode, client)
    assert held.entered.wait(60)
    write_task(tmp_path, base=student)
    assert client.post("/admin/reload").json() == {"bundles": ["mood", "student"]}
    assert client.app.state.service.catalogue.encoder("student") is not old
    assert old.is_open
    held.release.set()
    assert admitted.result(60).status_code == 200
    assert client.post("/classify/mood", json={"sentences": "good"}).status_code == 200
    assert not old.is_open


def test_after_a_reload_an_open_connection_keeps_no_models_of_before(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes, call = [], Gate.__call__

    async def keep(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)  # as uvicorn does with a connection's last
        await call(gate, scope, receive, send)

    monkeypatch.setattr(Gate, "__call__", keep)
    write_encoder(tmp_path)
    client = serve(models_dir=tmp_path, admin=True, api_key="key")
    client.headers["authorization"] = "Bearer key"
    old = weakref.ref(client.app.state.service.catalogue)
    assert encode(client).status_code == 200
    assert client.post("/admin/reload").status_code == 200
    gc.collect()
    assert old() is None
    assert scopes


def test_a_reload_that_fails_keeps_what_was_loaded(tmp_path: Path, serve: Serve) -> None:
    write_encoder(tmp_path)
    client = serve(models_dir=tmp_path, admin=True, api_key="key")
    client.headers["authorization"] = "Bearer key"
    (tmp_path / "half").mkdir()
    refused = client.post("/admin/reload")
    assert (refused.status_code, refused.json()["error"]["type"]) == (409, "reload_refused")
    assert "half is no bundle" in refused.json()["error"]["message"]
    assert encode(client).status_code == 200


def test_sixteen_callers_share_batches(serve: Serve, faults: Faults, background) -> None:
    client = serve(threads=1)
    held = faults.before = Hold()
    first = background(encode, client)
    assert held.entered.wait(60)
    callers = [background(encode, client, f"good {number}") for number in range(16)]
    until(lambda: series(client, 'understudy_queue_tokens{model="student"}') == 16 * 4)
    faults.before = lambda rows: None
    held.release.set()
    assert {future.result(60).status_code for future in (first, *callers)} == {200}
    rows = series(client, 'understudy_batch_rows_sum{model="student"}')
    batches = series(client, 'understudy_batch_rows_count{model="student"}')
    assert rows / batches > 1


def test_a_reload_that_fails_is_counted_with_its_reason(tmp_path: Path, serve: Serve) -> None:
    write_encoder(tmp_path)
    client = serve(models_dir=tmp_path)
    write_encoder(tmp_path, graph=encoder_graph(EMBEDDINGS[::-1].copy()))
    reload_refused(client)
    (tmp_path / "student" / "manifest.json").unlink()
    reload_refused(client)
    text = client.get("/metrics").text
    for outcome in ("loaded", "refused", "canary_failed"):
        assert f'understudy_loads_total{{outcome="{outcome}"}} 1.0' in text


def test_a_load_that_fails_by_a_bug_is_a_refusal_that_the_crew_hears(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes: list[str | None] = []

    class Recording(Alone):
        async def agree(self, models: str, refusal: str | None) -> str | None:
            votes.append(refusal)
            return refusal

    def fail(*_: object) -> None:
        raise MemoryError("secret")

    with TestClient(create_app(Settings(models_dir=models_dir, lag_seconds=30), Recording())) as client:
        client.portal.call(client.app.state.service.loaded.wait)
        with monkeypatch.context() as patch:
            patch.setattr("app.service.load_catalogue", fail)
            reload_refused(client, "loading failed: MemoryError; what was loaded before stays")
        assert client.portal.call(client.app.state.service.reload)
        assert votes == [None, "loading failed: MemoryError", None]
        assert series(client, 'understudy_loads_total{outcome="refused"}') == 1


def test_a_reload_during_the_first_loading_is_asked_for_after_it(models_dir: Path, hold: Hold) -> None:
    asked: list[str] = []

    class Recording(Alone):
        async def agree(self, models: str, refusal: str | None) -> str | None:
            asked.append("agree")
            return refusal

        async def reload(self, load: Load) -> None:
            asked.append("reload")
            await load()

    with TestClient(create_app(Settings(models_dir=models_dir, lag_seconds=30), Recording())) as client:
        assert hold.entered.wait(60)  # the first canary runs
        reloaded = client.portal.start_task_soon(client.app.state.service.reload)
        client.portal.call(asyncio.sleep, 0)
        assert asked == []
        hold.release.set()
        assert "student" in reloaded.result(60)
        assert asked == ["agree", "reload", "agree"]


def test_a_reload_after_a_first_loading_that_failed_tells_why(serve: Serve, tmp_path: Path) -> None:
    client = serve(models_dir=tmp_path, admin=True, api_key="key")
    refused = client.post("/admin/reload", headers={"authorization": "Bearer key"})
    assert (refused.status_code, "holds no bundle" in refused.json()["error"]["message"]) == (503, True)


def reload_refused(client: TestClient, message: str | None = None) -> None:
    with pytest.raises(ReloadError, match=message):
        client.portal.call(client.app.state.service.reload)
