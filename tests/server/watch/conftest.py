from __future__ import annotations

import pytest

from kshot.server.call_context import Call
from kshot.server.engine_link.pool import EngineUse
from kshot.server.store.store import StoreEvents
from kshot.server.watch.finished_calls import FinishedCalls
from kshot.server.watch.statistics import Level, ServedBundle, Statistics, TenantUse


@pytest.fixture
def finished() -> FinishedCalls:
    """Calls of two tenants, one of them refused."""
    finished = FinishedCalls()
    call = Call("Adapt", tenant="blue")
    call.add("compute", 0.0015)
    finished.add(call, "OK")
    finished.add(Call("Predict", tenant="red"), "OK")
    finished.add(Call("Predict", tenant="red"), "UNAVAILABLE", "QUEUE_FULL")
    return finished


@pytest.fixture
def statistics(finished: FinishedCalls) -> Statistics:
    """Statistics of which every part is there."""
    return Statistics(
        start_time=1e9,
        outcomes=finished.outcomes(),
        tenants={
            name: TenantUse(calls, model_count=2, model_bytes=200)
            for name, calls in finished.tenants().items()
        },
        running_count=3,
        queues={"adapting": Level(1, 10), "predicting": Level(2, 20)},
        engine=EngineUse(process_count=2, ready_count=1, task_count=4, end_count=5, slot_count=3),
        hot_sessions=Level(6, 60),
        cached_count=7,
        cached_bytes=Level(8, 80),
        models=Level(9, 90),
        model_bytes=Level(11, 110),
        store_events=StoreEvents(sweep_count=12, expired_count=13, quarantined_count=14),
        http_refusals={("PERMISSION_DENIED", "UNKNOWN_HOST"): 4},
        bundles=(ServedBundle("tiny", 1, "ab" * 32, ("beta", "stable")),),
    )
