"""The one place where the calls of the port are counted and traced."""

from __future__ import annotations

from dataclasses import dataclass, field

from kshot.server.call_context import Call
from kshot.server.watch.call_trace import CallTraces
from kshot.server.watch.finished_calls import FinishedCalls


@dataclass(frozen=True)
class CallObserver:
    """Has each call counted once it has ended, and traced if `traces` are there."""

    finished: FinishedCalls = field(default_factory=FinishedCalls)
    traces: CallTraces | None = None

    def begin(self, call: Call, service: str = "") -> None:
        """Observe a call from its beginning; calls of standard services have no `service`."""
        if self.traces is None or not service:
            call.finished = self.finished.add
            return
        end_trace = self.traces.begin(call, service)

        def finish(call: Call, code: str, reason: str) -> None:
            self.finished.add(call, code, reason)
            end_trace(call, code, reason)

        call.finished = finish
