"""How a request that works with a model is taken: admitted, read, checked, and given up where nobody waits any more."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from itertools import islice
from time import perf_counter
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from app.errors import DeadlineError, InvalidError, NotJsonError, SlowBodyError, TooLargeError
from app.gate import CALL, Call, ClientGoneError
from app.schemas import explain
from app.service import Service
from app.settings import PREFIX

CATALOGUE = "understudy.catalogue"
# Most answers come within milliseconds. Only for a slower one is it worth a task to notice that its client has left.
PATIENCE_SECONDS = 0.05
# Whoever is still sending when the connection closes sees it reset, and not the answer (RFC 9112, section 9.6).
DISCARDED_BYTES = 32 * 2**20

# Pydantic makes a dictionary of each problem: with a body of nothing else, for seconds and hundreds of megabytes.
MOST_PROBLEMS = 100
# Reading a body of nothing but lists or unknown fields takes it as long. No request has this many for each sentence.
MOST_PARTS = 20
OPENINGS = (b"[", b"{", b":")
PARTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{:]', re.DOTALL)  # strings, of which what is within does not count


class JsonRoute(APIRoute):
    """A route that works with models: its body goes from bytes to a checked model in one step.

    The endpoint's signature serves the OpenAPI document; FastAPI's own parsing and serialisation, several times dearer
    than a student's answer, never run.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the endpoint: admission, deadline, body, endpoint."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint
        content: TypeAdapter[BaseModel] = TypeAdapter(get_type_hints(endpoint)["body"])

        async def handle(request: Request) -> Response:
            service: Service = request.app.state.service
            call: Call = request.scope[CALL]
            settings = service.settings
            with service.admit() as request.scope[CATALOGUE]:
                try:
                    async with _Patience(request, settings.deadline_seconds) as patience:
                        body = await _read_body(request, settings.max_body_bytes)
                        patience.watch()
                        arrived = perf_counter()
                        _check_parts(body, settings.max_sentences)
                        checked = _check(content, body, request)
                        del body  # megabytes, and for the length of the request
                        call.stages["parse"] = perf_counter() - arrived
                        return await endpoint(**request.path_params, body=checked, request=request)
                finally:
                    del request.scope[CATALOGUE]  # a connection keeps its last scope, for minutes

        return handle


class _Patience:
    """Ends the work on a request at its deadline, or once its client has left."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._request, self._seconds = request, seconds
        self._handles: list[asyncio.TimerHandle | asyncio.Task[None]] = []
        self._complete = False
        self._reason: Exception | None = None

    async def __aenter__(self) -> "_Patience":
        task = asyncio.current_task()
        assert task is not None
        self._task, self._loop = task, asyncio.get_running_loop()
        self._handles.append(self._loop.call_later(self._seconds, self._expire))
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        for handle in self._handles:
            handle.cancel()
        if self._reason is not None and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise self._reason

    def watch(self) -> None:
        """The body is complete: from now on, the next message can only be that the client has left."""
        self._complete = True
        self._handles.append(self._loop.call_later(PATIENCE_SECONDS, self._start_watching))

    def _start_watching(self) -> None:
        self._handles.append(self._loop.create_task(self._watch()))

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._give_up(ClientGoneError())

    def _expire(self) -> None:
        limit = f"{PREFIX}DEADLINE_SECONDS is {self._seconds:g}"
        late = DeadlineError(f"no answer in time; {limit}")
        self._give_up(late if self._complete else SlowBodyError(f"the body did not arrive in time; {limit}"))

    def _give_up(self, reason: Exception) -> None:
        if self._reason is None:
            self._reason = reason
            self._task.cancel()


async def _read_body(request: Request, limit: int) -> bytes:
    """Read the body; what exceeds the limit is thrown away as it comes, and after a while no longer waited for."""
    too_large = TooLargeError(f"the body is too large; {PREFIX}MAX_BODY_BYTES is {limit}")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit + DISCARDED_BYTES:
        raise too_large
    body, received = bytearray(), 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit + DISCARDED_BYTES:
                raise too_large
            if received <= limit:
                body += chunk
    except ClientDisconnect as error:
        raise ClientGoneError from error
    if received > limit:
        raise too_large
    return bytes(body)


def _check_parts(body: bytes, most_sentences: int) -> None:
    most = MOST_PARTS * most_sentences
    if sum(map(body.count, OPENINGS)) <= most or not body.lstrip().startswith((b"[", b"{")):
        return
    if any(islice(PARTS.finditer(body), most, None)):
        raise InvalidError(f"the body has more than {most} parts; {PREFIX}MAX_SENTENCES is {most_sentences}")


def _check(content: TypeAdapter[Any], body: bytes, request: Request) -> BaseModel:
    try:
        checked: BaseModel = content.validate_json(body)
    except ValidationError as error:
        if error.error_count() > MOST_PROBLEMS:
            wrong = f"the body is wrong in {error.error_count()} places; /docs shows what is taken"
            raise InvalidError(wrong) from None
        problems = error.errors(include_url=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            coding = request.headers.get("content-encoding", "")[:20]
            plain = f"; it says Content-Encoding: {coding}, and is taken without any" if coding else ""
            raise NotJsonError(f"the body is not JSON: {problems[0]['ctx']['error']}{plain}") from None
        raise InvalidError(*explain(problems)) from None
    return checked
