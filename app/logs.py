"""Logs: one JSON object per line on standard error, and never a word of what clients send."""

import logging
import sys
import traceback
from datetime import UTC, datetime

import orjson

FIELDS = "fields"  # the `extra` key under which a record carries its fields


class JsonFormatter(logging.Formatter):
    """Write a record, its fields and, of an exception, its type and where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0]:
            # The exception's own message is left out: it may repeat what a client sent.
            line["exception"] = record.exc_info[0].__name__
            line["stack"] = [f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(record.exc_info[2])]
        return orjson.dumps(line, default=str).decode()


def configure_logs(level: str) -> None:
    """Send every record of this level and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
