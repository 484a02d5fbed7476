"""The application, and its life in a process.

The signals are the service's own: SIGTERM and SIGINT end it once every admitted request is answered, SIGHUP reads the
models folder again.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from app.documentation import complete
from app.errors import ReloadError, ServiceError, UnavailableError, error_body
from app.express import Express
from app.gate import Gate
from app.json_route import JsonRoute
from app.logs import configure_logs
from app.metrics import Metrics, build_version
from app.protocol import Protocol
from app.routes import admin, facts, models, page
from app.service import Alone, Crew, Service
from app.settings import Settings
from app.supervisor import Line

logger = logging.getLogger(__name__)

BACKLOG = 2048
# libuv accepts one connection per listener and round of its loop. Under load rounds are long: with a single listener,
# new connections would starve in the kernel, where nothing can answer them with 429.
LISTENERS = 16
KEEP_ALIVE_SECONDS = 75  # more than the 60 s of common balancers, so that they close idle connections first
CLOSE_SECONDS = 5  # for connections that stay open after their last answer
DESCRIPTION = "Sentence vectors and labels from a distilled BiLSTM, beside the BERT encoder that it stands in for."


def create_app(settings: Settings, crew: Crew | None = None) -> FastAPI:
    """Build the service. It begins to load its models with its lifespan, and is ready some time later.

    Args:
        settings: The limits, the models folder and all else that an operator sets.
        crew: The other processes, where there are any.
    """
    metrics = Metrics()
    service = Service(settings, metrics, crew or Alone())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPIOffline(  # the documentation's assets come from this machine, not from elsewhere
        title="Understudy",
        version=build_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={ServiceError: _service_error, HTTPException: _http_error},
    )
    app.state.service = service
    app.include_router(models)
    app.include_router(facts)
    app.include_router(page)
    if settings.admin:
        app.include_router(admin)
    app.add_middleware(Express, routes=[route for route in models.routes if isinstance(route, JsonRoute)])
    app.add_middleware(Gate, metrics=metrics, api_key=settings.api_key.get_secret_value() if settings.api_key else None)
    generated = app.openapi
    app.openapi = lambda: complete(generated(), service.shown(), settings)  # type: ignore[method-assign]
    return app


def serve(settings: Settings, listener: socket.socket, line: Connection | None = None) -> int:
    """Serve until SIGTERM or SIGINT, alone or as the worker at one end of a supervisor's line.

    Returns:
        The exit code: 0 if every admitted request was answered.
    """
    configure_logs(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, listener, Line(line) if line else Alone()))


async def _serve(settings: Settings, listener: socket.socket, crew: Crew) -> int:
    app = create_app(settings, crew)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=partial(Protocol, service.metrics.count_refused),  # type: ignore[arg-type]  # it makes one all the same
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is
        lifespan="on",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = _Server(config)
    stop = _on_signals(service, alone=isinstance(crew, Alone))
    listener.setblocking(False)  # noqa: FBT003  (a copy of a blocking one would make every process's accept block)
    listeners = [listener, *(listener.dup() for _ in range(LISTENERS - 1))]
    serving = asyncio.create_task(server.serve(sockets=listeners))
    code = await _life(service, stop)
    server.should_exit = True
    await serving
    return code


async def _life(service: Service, stop: asyncio.Event) -> int:
    stopped = asyncio.create_task(stop.wait())
    loaded = asyncio.create_task(service.loaded.wait())
    await asyncio.wait({stopped, loaded}, return_when=asyncio.FIRST_COMPLETED)
    if service.failure:
        return 1
    await stopped
    logger.info("shutting down")
    return 0 if await service.drain() else 1


def _on_signals(service: Service, *, alone: bool) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def reload() -> None:
        task = loop.create_task(_reload(service))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    # A whole process group may get the signal; among several processes the supervisor acts on it, for all.
    loop.add_signal_handler(signal.SIGHUP, reload if alone else lambda: None)
    return stop


async def _reload(service: Service) -> None:
    with suppress(ReloadError, UnavailableError):  # logged where it happened
        await service.reload()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would close the port at once, and end by the signal instead of with 0."""
        yield


async def _service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return Response(error.body(), error.status, error.headers, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework itself refuses: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    kind, message = {
        404: ("not_found", f"there is no {request.url.path}; /docs lists the routes"),
        405: ("method_not_allowed", f"{request.url.path} does not take {request.method}"),
    }.get(error.status_code, ("refused", error.detail))
    headers = dict(error.headers or {})
    return Response(error_body(kind, message), error.status_code, headers, media_type="application/json")
