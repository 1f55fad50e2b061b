"""The audit log: who did what to keys, bundles, adapted models and tenants. It has no content.

One JSON object per line, appended. The file is opened for each line, so that it may be moved away
at any time; lines are few.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kshot.server.call_context import Call
from kshot.server.errors import PermissionDenied, StartError, Unauthenticated
from kshot.server.event_log import log_event, short_id

_ACTIONS = {
    "DeleteAdaptedModel": "delete_adapted_model",
    "DeleteTenant": "delete_tenant",
    "ReloadBundles": "reload_bundles",
}
_REFUSALS = (Unauthenticated.reason, PermissionDenied.reason)
# Anyone can have calls refused: so many lines at once, and then one a second.
_BURST = 20


class AuditLog:
    """Appends to a file, or does nothing without a path; raises `StartError` if it cannot."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._free, self._looked = float(_BURST), clock()
        self._suppressed = 0
        if path is not None:
            try:
                _append(path, b"")
            except OSError as error:
                raise StartError(
                    f"{path}: cannot write the audit log: {error.strerror}; name a file in a "
                    "folder that this user may write to"
                ) from error

    def write(self, action: str, outcome: str, **fields: str | int) -> None:
        """Append a line; a failure is logged, and stops nothing."""
        if self._path is None:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": action,
            **{name: value for name, value in fields.items() if value},
            "outcome": outcome,
        }
        try:
            _append(self._path, json.dumps(line).encode() + b"\n")
        except OSError as error:
            problem = str(error.strerror)
            log_event("audit_not_written", logging.ERROR, action=action, problem=problem)

    def write_call(self, call: Call, outcome: str) -> None:
        """Append a line about a call that has ended, if it is one of those that are listed."""
        action = _ACTIONS.get(call.method)
        suppressed = 0
        if outcome in _REFUSALS:
            action = "refuse"
            if not self._may_refuse():
                return
            suppressed, self._suppressed = self._suppressed, 0
        if action is not None:
            self.write(
                action,
                outcome,
                method=call.method if action == "refuse" else "",
                key=call.key,
                tenant=call.tenant,
                peer=call.connection,
                object=call.subject or short_id(call.adapted_model),
                request_id=call.request_id,
                suppressed=suppressed,
            )

    def _may_refuse(self) -> bool:
        now = self._clock()
        self._free = min(float(_BURST), self._free + now - self._looked)
        self._looked = now
        if self._free < 1:
            self._suppressed += 1
            return False
        self._free -= 1
        return True


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
