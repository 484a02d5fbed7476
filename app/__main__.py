"""Serve, or compare without serving. Settings come from UNDERSTUDY_* variables and .env.

python -m app                                  serve
python -m app compare FILE [--task TASK]       student beside teacher on each line of a file, as a table
"""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from app.bundle import BundleError
from app.comparison import InputError, compare_file
from app.cores import usable_cores
from app.errors import ServiceError
from app.logs import FIELDS, configure_logs
from app.main import BACKLOG, serve
from app.settings import PREFIX, Settings, SettingsError, read_settings
from app.supervisor import Supervisor

logger = logging.getLogger("app")


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


def compare(settings: Settings, options: argparse.Namespace) -> int:
    """Print the comparison; the exit code is 1 if there is none to print."""
    try:
        table = compare_file(settings, settings.threads or usable_cores(), options.file, options.task)
    except (InputError, BundleError, ServiceError) as error:
        print(f"understudy: {error}", file=sys.stderr)  # noqa: T201
        return 1
    try:
        print(table, flush=True)  # noqa: T201
    except BrokenPipeError:  # whoever reads has seen enough; at its end the interpreter would write the rest once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the commands; without one, serve."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve; settings are UNDERSTUDY_* variables.")
    commands = parser.add_subparsers(dest="command", metavar="compare")
    command = commands.add_parser("compare", help="student beside teacher on each line of a file, as a table")
    command.add_argument("file", type=Path, help="a sentence a line; for tasks on pairs, two with a tab between")
    command.add_argument("--task", help="compare this task's answers; without it, vectors")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; the exit code is 0 then, 1 for bad surroundings, 2 for wrong settings."""
    options = parser().parse_args(arguments)
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"understudy: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if options.command == "compare":
        return compare(settings, options)
    configure_logs(settings.log_level)
    try:
        listener = listen(settings)
    except ListenError as error:
        print(f"understudy: {error}", file=sys.stderr)  # noqa: T201
        return 1
    logger.info("settings", extra={FIELDS: {**settings.shown(), "port": listener.getsockname()[1]}})
    if settings.workers > 1:
        return Supervisor(settings, listener, serve).run()
    return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
