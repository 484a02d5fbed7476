"""The real command: its port, its signals, its exit codes, and what it says when it cannot serve."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from bundles import write_encoder
from processes import Process

Start = Callable[..., Process]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_zero(start: Start, number: int) -> None:
    service = start().wait_until()
    assert service.encode() == 200
    code, error = service.end(number)
    assert code == 0, error
    assert "Traceback" not in error
    lines = [json.loads(line) for line in error.splitlines()]
    assert [line["message"] for line in lines if line["logger"] in {"app", "app.main"}] == ["settings", "shutting down"]


def test_it_ends_while_it_still_loads(start: Start) -> None:
    code, error = start().wait_until(path="/health/live").end()
    assert code == 0, error


def test_requests_in_flight_at_the_signal_are_all_answered(start: Start) -> None:
    service = start(drain_seconds=3).wait_until()
    busy = Event()

    def ask_until_refused() -> list[int]:
        seen: list[int] = []
        while not seen or seen[-1] == 200:
            try:
                seen.append(service.encode(*["good film"] * 50))
            except ConnectionRefusedError:
                seen.append(0)
            if len(seen) > 20:
                busy.set()
        return seen

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_until_refused) for _ in range(8)]
        assert busy.wait(30)
        code, error = service.end()
        assert code == 0, error
        for client in clients:
            *answered, last = client.result(30)
            assert set(answered) == {200}
            assert last in {503, 0}  # told that it is shutting down, or too late to connect


def test_draining_shows_before_the_port_closes(start: Start) -> None:
    service = start(drain_seconds=1).wait_until()
    service.popen.send_signal(signal.SIGTERM)
    service.wait_until(503)
    assert service.call("GET", "/health/live")[0] == 200
    assert service.ended()[0] == 0


def test_hangup_reads_the_models_folder_again(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    service = start(models_dir=tmp_path).wait_until()
    write_encoder(tmp_path, "teacher")
    service.popen.send_signal(signal.SIGHUP)
    limit = time.monotonic() + 30
    while b"teacher" not in service.call("GET", "/v1/models")[1]:
        assert time.monotonic() < limit
    assert service.encode() == 200
    assert service.end()[0] == 0


def test_a_taken_port_is_one_clear_line(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, error = start(port=port).ended()
    expected = (
        f"understudy: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "UNDERSTUDY_HOST and UNDERSTUDY_PORT choose another\n"
    )
    assert (code, error) == (1, expected)


def test_a_free_port_that_it_took_is_told() -> None:
    settings = {**os.environ, "UNDERSTUDY_PORT": "0", "UNDERSTUDY_MODELS_DIR": "/nowhere"}
    ran = subprocess.run([sys.executable, "-m", "app"], env=settings, capture_output=True, text=True)
    told = json.loads(ran.stderr.splitlines()[0])
    assert (told["message"], told["port"] > 0) == ("settings", True)


def test_a_wrong_setting_is_one_clear_line(start: Start) -> None:
    code, error = start(thread=2).ended()
    assert code == 2
    assert error.startswith("understudy: unknown setting UNDERSTUDY_THREAD; there are ")
    assert error.count("\n") == 1


def test_a_damaged_bundle_ends_it_with_the_reason(start: Start, tmp_path: Path) -> None:
    file = write_encoder(tmp_path).path("model.onnx")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    code, error = start(models_dir=tmp_path).ended()
    assert code == 1
    assert "Traceback" not in error
    last = json.loads(error.splitlines()[-1])
    assert last["level"] == "error"
    assert f"{file} is damaged" in last["message"]


def test_a_missing_models_folder_ends_it_with_the_reason(start: Start, tmp_path: Path) -> None:
    code, error = start(models_dir=tmp_path / "nix").ended()
    assert code == 1
    assert "UNDERSTUDY_MODELS_DIR names the one that holds the bundles" in error


def test_clients_that_leave_leave_nothing_behind(start: Start) -> None:
    service = start().wait_until()
    body = json.dumps({"sentences": ["good film"] * 500}).encode()
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (head + body, head + body[:100], head[:20]):
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", service.port)) as client:
                client.sendall(sent)
    assert service.encode() == 200
    limit = time.monotonic() + 10
    while b'understudy_queue_tokens{model="student"} 0.0' not in service.call("GET", "/metrics")[1]:
        assert time.monotonic() < limit
    assert service.end()[0] == 0


def test_a_slow_body_is_given_up(start: Start) -> None:
    service = start(deadline_seconds=0.3).wait_until()
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(b'POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"sentences"')
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    assert service.end()[0] == 0


def test_a_client_with_too_large_a_body_reads_why_instead_of_a_reset(start: Start) -> None:
    service = start(max_body_bytes=1000).wait_until()
    status, answer = service.call("POST", "/encode", {"sentences": ["a" * 2**23]})
    assert status == 413
    assert json.loads(answer)["error"]["type"] == "too_large"
    assert service.encode() == 200
    assert service.end()[0] == 0


def test_a_body_that_only_claims_to_be_huge_is_not_waited_for(start: Start) -> None:
    service = start(max_body_bytes=1000).wait_until()
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    assert service.end()[0] == 0
