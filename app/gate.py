"""The gate that every request passes, in and out: its id, its key, its clock, its one line in the log."""

import hashlib
import hmac
import logging
import random
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter
from typing import Any

from app.errors import ServiceError, UnauthorizedError, error_body
from app.logs import FIELDS
from app.metrics import CLIENT_GONE, MODEL_ROUTES, NO_MODEL, OTHER, OTHER_ROUTES, REASONS, Metrics

# ASGI's own terms: https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

CALL = "understudy.call"  # where a request's scope holds its Call
# Probes and scrapers have no key, and neither they nor the documentation run a model. The page asks its reader for it.
OPEN = re.compile(r"/|/page/.*|/health/\w+|/metrics|/docs.*|/openapi\.json|/static-offline-docs/.*")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientGoneError(Exception):
    """The client left; nobody reads an answer."""


@dataclass
class Call:
    """One request on its way through.

    Attributes:
        id: The client's X-Request-ID, or a new one.
        began: When it came in, on time.perf_counter's clock.
        model: Who answers, once that is known.
        stages: Seconds in each stage so far.
        facts: For the log: rows, tokens, task.
        status: The answer's status; CLIENT_GONE until there is one.
    """

    id: str
    began: float
    model: str = NO_MODEL
    stages: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    status: int = CLIENT_GONE


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None) -> None:
        """Guard and measure `app`."""
        self._app = app
        # Looking a child up takes prometheus-client longer than counting in it.
        self._requests = cache(metrics.requests.labels)
        self._rejected = cache(metrics.rejected.labels)
        self._request_duration = cache(metrics.request_duration.labels)
        self._stage_duration = cache(metrics.stage_duration.labels)
        self._key = _digest(api_key.encode()) if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server, which looks at a scope of its own, leaves the body out
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        call = scope[CALL] = Call(_request_id(headers.get(b"x-request-id", b"")), perf_counter())

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], *_headers(call)]
            await send(message)

        try:
            self._authorise(scope["path"], headers.get(b"authorization", b""))
            await self._app(scope, receive, answer)
        except ServiceError as error:
            await _send_error(answer, error.status, error.body(), error.headers)
        except ClientGoneError:
            pass
        except Exception:
            logger.exception("a request failed; this is a bug", extra={FIELDS: {"request_id": call.id}})
            if call.status != CLIENT_GONE:  # the answer has begun; only the connection can tell now
                raise
            await _send_error(answer, 500, error_body("internal", "the service failed; its log knows more"), {})
        finally:
            self._record(call, scope)

    def _authorise(self, path: str, given: bytes) -> None:
        if self._key is None or OPEN.fullmatch(path):
            return
        scheme, _, key = given.partition(b" ")
        # Digests, so that neither time nor length tells anything about the key.
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(key.strip()), self._key):
            raise UnauthorizedError("send the service's API key as `Authorization: Bearer <key>`")

    def _record(self, call: Call, scope: Scope) -> None:
        seconds = perf_counter() - call.began
        path = getattr(scope.get("route"), "path", OTHER)
        route = path if path in MODEL_ROUTES or path in OTHER_ROUTES else OTHER
        self._count(call, route, seconds)
        if logger.isEnabledFor(logging.INFO):
            fields = {
                "request_id": call.id,
                "method": scope["method"],
                "route": route,
                "status": call.status,
                "model": call.model,
                "milliseconds": round(seconds * 1e3, 3),
                **call.facts,
            }
            logger.info("request", extra={FIELDS: fields})

    def _count(self, call: Call, route: str, seconds: float) -> None:
        self._requests(route, call.model, call.status).inc()
        if route not in MODEL_ROUTES:
            return
        if call.status in REASONS:
            self._rejected(call.model, REASONS[call.status]).inc()
        if call.status == 200:
            self._request_duration(route, call.model).observe(seconds)
            for stage, duration in call.stages.items() if call.model != NO_MODEL else ():
                self._stage_duration(call.model, stage).observe(duration)


def _request_id(given: bytes) -> str:
    """Keep a client's id if it can be logged and sent back without harm."""
    return given.decode() if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    total = {"total": perf_counter() - call.began}
    timing = ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in {**call.stages, **total}.items())
    return [(b"x-request-id", call.id.encode()), (b"server-timing", timing.encode())]


async def _send_error(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    lines += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
