"""The front's log events: the life of the server, and every finished call."""

from __future__ import annotations

import logging
import re
import time

from kshot.server.call_context import Call

LOGGER = logging.getLogger("kshot.server")

_IDS = re.compile(r"am-[a-z2-7]{26}\b")  # it begins with letters, so it is found fast
_SHORT = len("am-") + 8


def short_id(adapted_model: str) -> str:
    """Return the beginning of an id, `am-` and 8 characters: who has the log has no id.

    Whoever knows an id finds its lines; 18 characters stay secret.
    """
    return adapted_model if len(adapted_model) <= _SHORT else adapted_model[:_SHORT] + "\u2026"


def bounded_id(adapted_model: str) -> str:
    """Return a whole id; of what is none, which a caller may have made long, the beginning."""
    return adapted_model if _IDS.fullmatch(adapted_model) else short_id(adapted_model)


def without_ids(text: str) -> str:
    """Return text with the ids of adapted models shortened, as a traceback."""
    return _IDS.sub(lambda found: short_id(found[0]), text)


def log_event(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event of the server's life."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_call(call: Call, code: str, reason: str = "", field: str = "") -> None:
    """Log a finished call and have it counted; `field` is the first invalid one."""
    if call.finished is not None:
        call.finished(call, code, reason)
    split = {phase: round(seconds * 1000, 3) for phase, seconds in call.seconds.items()}
    fields: dict[str, object] = {
        "method": call.method,
        "code": code,
        "reason": reason,
        "field": field,
        "model": call.model,
        "adapted_model": short_id(call.adapted_model),
        "duration_ms": round(1000 * (time.perf_counter() - call.started), 3),
        "timing_ms": split,
        "tenant": call.tenant,
        "request_id": call.request_id,
        "trace_id": call.trace_id,
    }
    level = logging.ERROR if code in ("INTERNAL", "DATA_LOSS") else logging.INFO
    log_event("request", level, **{name: value for name, value in fields.items() if value != ""})
