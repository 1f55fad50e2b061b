"""`kshot statistics`: what a server has done since it started, and what it holds."""

from __future__ import annotations

from datetime import UTC

import click
from google.protobuf.duration_pb2 import Duration

from kshot.client.commands.options import (
    Server,
    json_option,
    print_described,
    print_document,
    print_table,
    server_options,
    time_text,
    timeout_option,
)
from kshot.client.connection.channel import Patience
from kshot.v1 import admin_pb2 as wire

_PARTS = ("queue", "decode", "compute", "store", "total")
_COUNTS = (
    "adapted_model_count",
    "adapted_model_bytes",
    "cached_model_count",
    "adapting_count",
    "predicting_count",
    "engine_count",
)


@click.command()
@server_options()
@timeout_option
@json_option
def command(server: Server, timeout: float, as_json: bool) -> None:
    """Show what a server has done since it started, and what it holds.

    It needs a key with the role admin. Times are sums over the calls, in milliseconds.
    """
    connection = server.connection()
    try:
        patience = Patience.of(timeout)
        response, _ = connection.call(
            connection.admin_stub.GetStatistics, wire.GetStatisticsRequest(), patience
        )
    finally:
        connection.close()
    if as_json:
        print_document(document(response))
        return
    started = time_text(response.start_time.ToDatetime(UTC))
    counts = {name: getattr(response, name) for name in _COUNTS}
    print_described(("server", server.address), {"start_time": started, **counts})
    if response.methods:
        print_table(
            ("method", "code", "reason", "calls", *(f"{part}, ms" for part in _PARTS)),
            [
                (each.method, each.code, each.reason or "-", str(each.call_count), *_times(each))
                for each in response.methods
            ],
        )
    if response.tenants:
        print_table(
            ("tenant", "models", "bytes", "calls", "adapt seconds"),
            [
                (
                    each.tenant or "-",
                    str(each.adapted_model_count),
                    str(each.adapted_model_bytes),
                    str(each.call_count),
                    f"{each.adapt_seconds:.1f}",
                )
                for each in response.tenants
            ],
        )


def document(response: wire.GetStatisticsResponse) -> dict[str, object]:
    """Return what the command prints for machines."""
    return {
        "start_time": time_text(response.start_time.ToDatetime(UTC)),
        **{name: getattr(response, name) for name in _COUNTS},
        "methods": [
            {
                "method": each.method,
                "code": each.code,
                "reason": each.reason,
                "call_count": each.call_count,
                "time_ms": {part: _milliseconds(getattr(each, part)) for part in _PARTS},
            }
            for each in response.methods
        ],
        "tenants": [
            {
                "tenant": each.tenant,
                "adapted_model_count": each.adapted_model_count,
                "adapted_model_bytes": each.adapted_model_bytes,
                "call_count": each.call_count,
                "adapt_seconds": each.adapt_seconds,
            }
            for each in response.tenants
        ],
    }


def _times(each: wire.MethodStatistics) -> list[str]:
    return [f"{_milliseconds(getattr(each, part)):.1f}" for part in _PARTS]


def _milliseconds(duration: Duration) -> float:
    return round(1e3 * duration.ToTimedelta().total_seconds(), 3)
