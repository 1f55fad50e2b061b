"""The log of every process: one JSON object per line on stderr, never a sample value."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

_OWN = "kshot."  # loggers of this package


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: its message is the event, `extra={"fields": …}` its fields."""

    def __init__(self, redact: Callable[[str], str] = str, **constants: object) -> None:
        """Add the same fields to every line, as `process="engine"`; `redact` hides secrets."""
        super().__init__()
        self._redact = redact
        self._constants = constants

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end; other libraries' records name their logger."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._constants,
            "event": record.getMessage(),
        }
        if not record.name.startswith(_OWN):
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(line, default=str))


def start_logging(
    stream: TextIO | None = None,
    redact: Callable[[str], str] = str,
    level: str = "info",
    **constants: object,
) -> None:
    """Send all records of this process to stderr as JSON lines with these constant fields."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(redact, **constants))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
