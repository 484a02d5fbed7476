"""Serve: `python -m app`. Settings come from UNDERSTUDY_* variables and .env."""

import logging
import socket
import sys

from app.logs import FIELDS, configure_logs
from app.main import serve
from app.settings import PREFIX, Settings, SettingsError, read_settings
from app.supervisor import Supervisor

logger = logging.getLogger("app")

BACKLOG = 2048


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
    if settings.workers > 1:
        return Supervisor(settings, listener, serve).run()
    return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
