"""The log: one JSON document per line on stderr, never a sample value."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from kshot.server.call import Call

LOGGER = logging.getLogger("kshot.server")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: its message is the event, `extra={"fields": …}` its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != LOGGER.name:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(stream: TextIO | None = None) -> None:
    """Send all records of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_event(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event of the server's life."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_call(call: Call, code: str, reason: str, duration_seconds: float) -> None:
    """Log a call that is over; times in milliseconds."""
    split = {phase: round(seconds * 1000, 3) for phase, seconds in call.seconds.items()}
    fields: dict[str, object] = {
        "method": call.method,
        "code": code,
        "reason": reason,
        "model": call.model,
        "adapted_model": call.adapted_model,
        "duration_ms": round(duration_seconds * 1000, 3),
        "timing_ms": split,
        "request_id": call.request_id,
    }
    level = logging.ERROR if code in ("INTERNAL", "DATA_LOSS") else logging.INFO
    log_event("request", level, **{name: value for name, value in fields.items() if value != ""})
