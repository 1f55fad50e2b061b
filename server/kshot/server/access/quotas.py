"""Holds tenants to their limits: calls at once, and seconds of adapting in an hour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.access.shared_state import LocalState, SharedState
from kshot.server.call_context import current_call, current_tenant, until_sent
from kshot.server.errors import QuotaExceeded, TooManyCalls


@dataclass(frozen=True)
class Quotas:
    """The limits of tenants by name, and what they use; raises `RequestError`s.

    A server without keys has one tenant, whose name is empty and who has no limits.
    """

    limits_of: Callable[[str], Limits] = lambda _tenant: UNLIMITED
    state: SharedState = field(default_factory=LocalState)
    adapted: dict[str, float] = field(default_factory=dict)
    """Seconds that engines computed for each tenant since the start."""

    @property
    def limits(self) -> Limits:
        """Return the limits of the current call's tenant."""
        return self.limits_of(current_tenant())

    async def begin_call(self) -> None:
        """Count the current call until its answer is sent; raise `TooManyCalls`."""
        tenant = current_tenant()
        if not await self.state.enter(tenant, self.limits.max_calls):
            raise TooManyCalls
        until_sent(partial(self.state.leave, tenant))

    async def check_adapting(self) -> None:
        """Raise `QuotaExceeded` if the tenant has adapted enough for now."""
        most = self.limits.max_adapt_seconds
        if most is None:
            return
        wait = math.ceil(await self.state.wait_below(current_tenant(), most))
        if wait > 0:
            remedy = f"these are of the last hour: it may adapt again in {wait} s"
            raise QuotaExceeded("adapt seconds", most, remedy)

    @contextmanager
    def count_adapting(self) -> Iterator[None]:
        """Count what engines compute for the current call in the block, however that ends."""
        call = current_call()
        try:
            yield
        finally:
            before = self.adapted.get(call.tenant, 0.0)
            self.adapted[call.tenant] = before + call.engine_seconds
            self.state.add_adapt_seconds(call.tenant, call.engine_seconds)
