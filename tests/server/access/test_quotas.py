from __future__ import annotations

import asyncio

import pytest

from kshot.server.access.limits import Limits
from kshot.server.access.quotas import Quotas
from kshot.server.access.shared_state import LocalState
from kshot.server.call_context import Call, begin_call, current_call, serve_call
from kshot.server.errors import QuotaExceeded, TooManyCalls


def begin(tenant: str) -> Call:
    call = begin_call("Adapt")
    call.tenant, call.held = tenant, []
    return call


def test_calls_count_until_their_answers_are_sent() -> None:
    async def ask() -> None:
        quotas = Quotas({"a": Limits(max_calls=1), "b": Limits()}.__getitem__)
        first = begin("a")
        await quotas.begin_call()
        begin("b")
        await quotas.begin_call()
        begin("a")
        with pytest.raises(TooManyCalls):
            await quotas.begin_call()
        first.sent()
        await quotas.begin_call()

    asyncio.run(ask())


def test_seconds_are_counted_since_the_start() -> None:
    """Metrics have them from here: work that calls share is none of the call that was asked."""
    quotas = Quotas()
    asked = begin("a")
    for seconds in (5, 2):
        serve_call(asked.shared())
        with quotas.count_adapting():
            current_call().engine_seconds = seconds

    assert quotas.adapted == {"a": 7}
    assert asked.engine_seconds == 0


def test_a_tenant_waits_for_the_hour_to_pass() -> None:
    async def ask() -> str:
        now = [0.0]
        state = LocalState(lambda: now[0])
        quotas = Quotas(lambda _: Limits(max_adapt_seconds=2), state)
        begin("a")
        await quotas.check_adapting()
        with quotas.count_adapting():
            current_call().engine_seconds = 5
        now[0] = 1800.5
        begin("b")
        await quotas.check_adapting()
        begin("a")
        with pytest.raises(QuotaExceeded) as caught:
            await quotas.check_adapting()
        now[0] = 3600
        await quotas.check_adapting()
        return str(caught.value)

    assert asyncio.run(ask()) == (
        "the tenant's limit of 2 adapt seconds is reached; these are of the last hour: it may "
        "adapt again in 1800 s"
    )
