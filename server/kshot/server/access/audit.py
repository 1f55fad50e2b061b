"""The audit log: who did what to keys, bundles, adapted models and tenants. It has no content.

One JSON object per line, appended. The file is opened for each line, so that it may be moved away
at any time; lines are few. Those of calls are written in a thread, in order: a disk that is slow
keeps no other call waiting.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from kshot.server.call_context import Call
from kshot.server.errors import PermissionDenied, StartError, Unauthenticated
from kshot.server.event_log import bounded_id, log_event

_ACTIONS = {
    "DeleteAdaptedModel": "delete_adapted_model",
    "DeleteTenant": "delete_tenant",
    "ReloadBundles": "reload_bundles",
}
_REFUSALS = (Unauthenticated.reason, PermissionDenied.reason)
# Anyone can have calls refused: so many lines at once, and then one a second. A tenant cannot
# use up the lines of others, nor can those without a key.
_BURST = 20
_MAX_BUCKETS = 1000


@dataclass
class _Bucket:
    """The lines that may be written at once, when that was counted, and how many were left out."""

    looked: float
    free: float = float(_BURST)
    suppressed: int = 0

    def take(self, now: float) -> int | None:
        """Return how many lines were left out before this one; None if it is left out too."""
        self.free = min(float(_BURST), self.free + now - self.looked)
        self.looked = now
        if self.free < 1:
            self.suppressed += 1
            return None
        self.free -= 1
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed


class AuditLog:
    """Appends to a file, or does nothing without a path; raises `StartError` if it cannot."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._thread = ThreadPoolExecutor(1, "kshot-audit")  # started for its first line
        if path is not None:
            try:
                _append(path, b"")
            except OSError as error:
                raise StartError(
                    f"{path}: cannot write the audit log: {error.strerror}; name a file in a "
                    "folder that this user may write to"
                ) from error

    def close(self) -> None:
        """Wait until all lines are written."""
        self._thread.shutdown()

    def write(self, action: str, outcome: str, **fields: str | int) -> None:
        """Append a line; a failure is logged, and stops nothing; blocks."""
        self._append(action, _line(action, outcome, fields))

    def write_call(self, call: Call, outcome: str) -> None:
        """Append a line about a call that has ended, if it is one that is listed; soon."""
        action, suppressed = _ACTIONS.get(call.method), 0
        if self._path is None:
            return
        if outcome in _REFUSALS:
            left_out = self._bucket(call).take(self._clock())
            if left_out is None:
                return
            action, suppressed = "refuse", left_out
        if action is None:
            return
        fields: dict[str, str | int] = {
            "method": call.method if action == "refuse" else "",
            "key": call.key,
            "tenant": call.tenant,
            "peer": unquote(call.connection),  # gRPC quotes the brackets of IPv6
            "object": call.subject or bounded_id(call.adapted_model),
            **call.changes,
            "request_id": call.request_id,
            "suppressed": suppressed,
        }
        line = _line(action, outcome, fields)
        try:
            self._thread.submit(self._append, action, line)
        except RuntimeError:  # a call that ends after the server
            self._append(action, line)

    def _append(self, action: str, line: bytes) -> None:
        if self._path is None:
            return
        try:
            _append(self._path, line)
        except OSError as error:
            problem = str(error.strerror)
            log_event("audit_not_written", logging.ERROR, action=action, problem=problem)

    def _bucket(self, call: Call) -> _Bucket:
        """Return the bucket of the key's tenant, or that of all calls without a known key."""
        name = call.tenant if call.key else ""
        bucket = self._buckets.pop(name, None) or _Bucket(self._clock())
        self._buckets[name] = bucket
        if len(self._buckets) > _MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return bucket


def _line(action: str, outcome: str, fields: Mapping[str, str | int]) -> bytes:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "action": action,
        **{name: value for name, value in fields.items() if value},
        "outcome": outcome,
    }
    return json.dumps(line).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if not line:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        elif os.write(descriptor, line) != len(line):
            raise OSError(0, "only a part of the line was written")
    finally:
        os.close(descriptor)
