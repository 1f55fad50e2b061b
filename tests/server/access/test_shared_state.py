from __future__ import annotations

import asyncio

from kshot.server.access.shared_state import HOUR_SECONDS, LocalState


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_calls_are_counted_by_tenant() -> None:
    async def ask() -> list[bool]:
        state = LocalState()
        entered = [await state.enter(tenant, 2) for tenant in ("a", "a", "a", "b")]
        state.leave("a")
        return [*entered, await state.enter("a", 2), await state.enter("a", None)]

    assert asyncio.run(ask()) == [True, True, False, True, True, True]


def test_an_hour_slides() -> None:
    """What a tenant adapted an hour ago no longer counts, one adaptation after another."""

    async def ask() -> list[float]:
        clock = Clock()
        state = LocalState(clock)
        state.add_adapt_seconds("a", 4)
        clock.now += 600
        state.add_adapt_seconds("a", 2)
        found = [await state.adapt_seconds("a"), await state.adapt_seconds("b")]
        found += [await state.wait_below("a", most) for most in (7, 6, 2, 1)]
        clock.now += HOUR_SECONDS - 600
        found += [await state.adapt_seconds("a"), await state.wait_below("a", 3)]
        clock.now += 600
        return [*found, await state.adapt_seconds("a")]

    half, full = HOUR_SECONDS - 600, HOUR_SECONDS
    assert asyncio.run(ask()) == [6, 0, 0, half, full, full, 2, 0, 0]


def test_many_adaptations_take_bounded_memory() -> None:
    """Spans forget all of their adaptations together, half a minute late at most."""
    clock = Clock()
    state = LocalState(clock)
    for _ in range(20_000):
        clock.now += 0.5
        state.add_adapt_seconds("a", 0.01)

    assert len(state._adapted["a"]) <= 122
    assert 72 <= asyncio.run(state.adapt_seconds("a")) <= 72.7  # of 7200 adaptations in an hour
