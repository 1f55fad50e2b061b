"""Statistics as a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kshot.server.rpc.encode import duration_message, timestamp_message
from kshot.server.watch.finished_calls import TIMES, TOTAL
from kshot.server.watch.statistics import Statistics
from kshot.v1 import admin_pb2 as wire


def statistics_message(
    now: Statistics, adapt_seconds: Mapping[str, float]
) -> wire.GetStatisticsResponse:
    """Send statistics; `adapt_seconds` are those of the last hour, by tenant."""
    return wire.GetStatisticsResponse(
        start_time=timestamp_message(now.start_time),
        methods=_methods(now),
        tenants=[
            wire.TenantStatistics(
                tenant=name,
                adapted_model_count=use.model_count,
                adapted_model_bytes=use.model_bytes,
                call_count=use.call_count,
                adapt_seconds=adapt_seconds.get(name, 0.0),
            )
            for name, use in now.tenants.items()
        ],
        adapted_model_count=now.models.count,
        adapted_model_bytes=now.model_bytes.count,
        cached_model_count=now.cached_count,
        adapting_count=now.queues["adapting"].count,
        predicting_count=now.queues["predicting"].count,
        engine_count=now.engine.ready_count,
    )


def _methods(now: Statistics) -> Iterator[wire.MethodStatistics]:
    for outcome, times in now.outcomes.items():
        sums = {name: duration_message(times[name].seconds) for name in TIMES}
        yield wire.MethodStatistics(
            method=outcome.method,
            code=outcome.code,
            reason=outcome.reason,
            call_count=sum(times[TOTAL].counts),
            queue=sums["queue"],
            decode=sums["decode"],
            compute=sums["compute"],
            store=sums["store"],
            total=sums[TOTAL],
        )
