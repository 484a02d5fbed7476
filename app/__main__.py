"""Serve: `python -m app`. Settings come from UNDERSTUDY_* variables and .env.

The port is taken before anything slow, and the signals are the service's own: SIGTERM and SIGINT end it once every
admitted request is answered, SIGHUP reads the models folder again.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
import uvloop

from app.errors import ReloadError
from app.logs import FIELDS, configure_logs
from app.main import create_app
from app.service import Service
from app.settings import PREFIX, Settings, SettingsError, read_settings

logger = logging.getLogger("app")

BACKLOG = 2048
CLOSE_SECONDS = 5  # for connections that stay open after their last answer


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would close the port at once, and end by the signal instead of with 0."""
        yield


class ListenError(OSError):
    """The address cannot be listened on; the message says which setting changes it."""


def listen(settings: Settings) -> socket.socket:
    """Take the port, before anything slow: a taken one is told at once.

    Raises:
        ListenError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; "
            f"{PREFIX}HOST and {PREFIX}PORT choose another"
        ) from error
    listener.set_inheritable(True)
    return listener


def serve(settings: Settings, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; the exit code is 0 if every admitted request was answered."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> int:
    app = create_app(settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = _Server(config)
    stop = _on_signals(service)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    code = await _life(service, stop)
    server.should_exit = True
    await serving
    return code


async def _life(service: Service, stop: asyncio.Event) -> int:
    stopped = asyncio.create_task(stop.wait())
    loaded = asyncio.create_task(service.loaded.wait())
    await asyncio.wait({stopped, loaded}, return_when=asyncio.FIRST_COMPLETED)
    if service.failure:
        logger.error("not started: %s", service.failure)
        return 1
    await stopped
    logger.info("shutting down")
    return 0 if await service.drain() else 1


def _on_signals(service: Service) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def reload() -> None:
        task = loop.create_task(_reload(service))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    return stop


async def _reload(service: Service) -> None:
    with suppress(ReloadError):  # logged where it happened
        await service.reload()


def main() -> int:
    """Serve until a signal ends it; the exit code is 0 then, 1 for bad surroundings, 2 for wrong settings."""
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"understudy: {error}", file=sys.stderr)  # noqa: T201
        return 2
    configure_logs(settings.log_level)
    try:
        listener = listen(settings)
    except ListenError as error:
        print(f"understudy: {error}", file=sys.stderr)  # noqa: T201
        return 1
    logger.info("settings", extra={FIELDS: settings.shown()})
    return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
