"""Serve: `python -m app`. Settings come from UNDERSTUDY_* variables and .env."""

import logging
import sys

from app.logs import FIELDS, configure_logs
from app.server import ListenError, listen, serve
from app.settings import SettingsError, read_settings


def main() -> int:
    """Serve until a signal ends it; the exit code is 0 then, 1 for bad surroundings, 2 for wrong settings."""
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"understudy: {error}", file=sys.stderr)
        return 2
    configure_logs(settings.log_level)
    try:
        listener = listen(settings)
    except ListenError as error:
        print(f"understudy: {error}", file=sys.stderr)
        return 1
    logging.getLogger("app").info("settings", extra={FIELDS: settings.shown()})
    return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
