"""What comes over the wire before a request is one."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse
from select import select

import pytest
import uvicorn
from processes import Process
from starlette.applications import Starlette
from waiting import until

from app.protocol import HEAD_BYTES, Protocol

Start = Callable[..., Process]
LINE = b"x-filler: " + b"x" * 1000 + b"\r\n"
BODY = b'{"sentences":"good"}'


@pytest.fixture
def service(start: Start) -> Process:
    return start(api_key="key").wait_until()


def talk(service: Process, *parts: bytes) -> bytes:
    """Send parts until there is an answer, and give all of that."""
    answered = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            if select([connection], [], [], 0.1)[0]:  # what is sent after the end would reset what was answered
                break
        while got := connection.recv(2**16):
            answered += got
    return answered


def test_a_head_without_end_is_refused_before_it_is_kept(service: Process) -> None:
    answer = talk(service, b"POST /encode HTTP/1.1\r\n", *[LINE * 10] * (HEAD_BYTES // 10_000 + 50))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"] == {
        "type": "not_http",
        "message": f"the headers exceed {HEAD_BYTES} bytes",
        "param": None,
    }


def test_an_address_without_end_is_refused(service: Process) -> None:
    assert talk(service, b"GET /", *[b"x" * 10_000] * 50).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("path", [b"/health/ready", b"/docs", b"/"])
def test_head_is_answered_like_get_without_the_body(service: Process, path: bytes) -> None:
    lines = b" %s HTTP/1.1\r\nhost: here\r\n%s\r\n"
    answer = talk(service, b"HEAD" + lines % (path, b"") + b"GET" + lines % (path, b"connection: close\r\n"))
    first, second, body = answer.split(b"\r\n\r\n", 2)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d\r\n" % len(body) in first


def test_large_headers_and_a_body_right_behind_them_are_taken(service: Process) -> None:
    request = b"POST /encode HTTP/1.1\r\nhost: here\r\nauthorization: Bearer key\r\n" + LINE * 30
    request += b"content-length: %d\r\n" % len(BODY)
    first, last = request + b"\r\n" + BODY, request + b"connection: close\r\n\r\n" + BODY
    assert talk(service, first * 5 + last).count(b"HTTP/1.1 200 ") == 6


CHUNKED = b"POST /encode HTTP/1.1\r\nhost: here\r\nauthorization: Bearer key\r\ntransfer-encoding: chunked\r\n"
CHUNKED += b"connection: close\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("behind", [b"0\r\n", b"1;"], ids=["trailers", "an extension"])
def test_what_is_no_part_of_a_chunked_body_is_bounded_as_well(service: Process, behind: bytes) -> None:
    endless = LINE * 10 if behind == b"0\r\n" else b"x" * 10_000
    assert talk(service, CHUNKED + behind, *[endless] * (HEAD_BYTES // 10_000 + 50)).startswith(b"HTTP/1.1 431 ")


def test_headers_behind_a_chunked_body_are_taken(service: Process) -> None:
    assert talk(service, CHUNKED, b"0\r\n", LINE * 30, b"\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("cut", [0, len(BODY), len(BODY) + 40], ids=["whole", "before the body", "within the head"])
def test_an_offer_of_http_2_is_passed_over_and_the_body_behind_it_read(service: Process, cut: int) -> None:
    request = b"POST /encode HTTP/1.1\r\nhost:a\r\nAuthorization: Bearer key\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    request += b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for _ in range(2):
            connection.sendall(request[: len(request) - cut])
            time.sleep(0.05)
            connection.sendall(request[len(request) - cut :])
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.read().startswith(b'{"model":"student"')


async def refusals(sent: bytes) -> list[int]:
    """What is counted of a connection that sends this and nothing more; it has to be closed."""
    counted: list[int] = []
    http = partial(Protocol, counted.append)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(), http=http, lifespan="off", timeout_keep_alive=1, log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(sent)
    with suppress(ConnectionResetError):  # in place of the answer, where more had come than was read
        got = await asyncio.wait_for(reader.read(), 10)
        assert got[:13] == (b"HTTP/1.1 %d " % counted[0] if counted else b"")
    writer.close()
    server.should_exit = True
    await serving
    return counted


@pytest.mark.parametrize(("sent", "refused"), [(b"", []), (b"GET / HTTP/1.1\r\nhost:", [408])])
def test_a_connection_without_a_complete_head_is_closed_after_a_while(sent: bytes, refused: list[int]) -> None:
    assert asyncio.run(refusals(sent)) == refused


def test_a_connection_is_refused_once() -> None:
    assert asyncio.run(refusals(b"\x16" * 2 * HEAD_BYTES)) == [400]


def test_a_connection_that_is_lost_with_several_requests_open_is_no_bug(service: Process) -> None:
    request = b"POST /encode HTTP/1.1\r\nhost: here\r\nauthorization: Bearer key\r\ncontent-length: %d\r\n\r\n" % len(
        BODY
    )
    talk(service, (request + BODY) * 3 + b"\x16\x03\x01 hello\r\n\r\n")

    def counted() -> bool:
        series = service.call("GET", "/metrics")[1].decode().splitlines()
        return any("requests_total{" in one and '"/encode"' in one and one.endswith(" 1.0") for one in series)

    until(counted)
    assert "this is a bug" not in service.logged()


def test_refusals_are_counted_among_the_answers(service: Process) -> None:
    talk(service, b"\x16\x03\x01 hello\r\n\r\n")
    talk(service, b"GET /", *[b"x" * 10_000] * 50)
    counted = service.call("GET", "/metrics")[1].decode()
    for status, times in ((400, 1), (408, 0), (431, 1)):
        assert f'understudy_requests_total{{model="none",route="other",status="{status}"}} {times}.0' in counted


def test_what_is_no_http_is_refused_in_the_one_form(service: Process) -> None:
    answer = talk(service, b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "not_http"
