from __future__ import annotations

import asyncio
import time

from kshot.server.limits.pace import LARGE_BYTES, Pace

MEGABYTE = 10**6


def test_who_is_refused_much_waits_in_line_and_others_do_not() -> None:
    async def main() -> None:
        pace = Pace(burst=2 * MEGABYTE, rate=20 * MEGABYTE)
        began = time.perf_counter()
        pace.charge("greedy", 2 * MEGABYTE)

        async def read(seconds: list[float]) -> None:
            async with pace.turn("greedy"):
                pace.charge("greedy", 2 * MEGABYTE)
                seconds.append(time.perf_counter() - began)

        pace.charge("greedy", 2 * MEGABYTE)
        seconds: list[float] = []
        await asyncio.gather(*(read(seconds) for _ in range(3)))

        assert all(found > least for found, least in zip(seconds, (0.09, 0.19, 0.29), strict=True))

    asyncio.run(main())


def test_who_is_refused_more_than_is_free_owes() -> None:
    async def main() -> None:
        pace = Pace(burst=2 * MEGABYTE, rate=1)
        pace.charge("greedy", 2 * MEGABYTE)
        assert not pace.owes("greedy")
        pace.charge("greedy", 2 * MEGABYTE)
        assert pace.owes("greedy")
        assert not pace.owes("other")

    asyncio.run(main())


def test_a_debt_is_forgotten_once_it_is_paid() -> None:
    async def main() -> None:
        pace = Pace(burst=MEGABYTE, rate=10**12)
        pace.charge("early", 5 * MEGABYTE)
        await asyncio.sleep(0.01)
        assert not pace.owes("early")
        pace.charge("late", 5 * MEGABYTE)

        assert list(pace._debts) == ["late"]

    asyncio.run(main())


def test_no_debt_takes_long_and_what_was_not_refused_is_given_back() -> None:
    async def main() -> None:
        pace = Pace(burst=0, rate=1)
        pace.charge("one", 100 * MEGABYTE)
        assert pace._wait(pace._debts["one"]) < 5
        pace.refund("one", 100 * MEGABYTE)
        pace.refund("nobody", MEGABYTE)

        assert not pace.owes("one")

    asyncio.run(main())


def test_small_messages_cost_nothing() -> None:
    async def main() -> None:
        pace = Pace(burst=0, rate=1)
        pace.charge("many", LARGE_BYTES)

        assert not pace.owes("many")

    asyncio.run(main())


def test_a_turn_that_ends_early_is_the_next_ones() -> None:
    async def main() -> None:
        pace = Pace(burst=0, rate=20 * MEGABYTE)
        pace.charge("greedy", MEGABYTE)

        async def read() -> str:
            async with pace.turn("greedy"):
                return "read"

        first, second = asyncio.create_task(read()), asyncio.create_task(read())
        await asyncio.sleep(0)
        first.cancel()

        assert await asyncio.wait_for(second, 60) == "read"

    asyncio.run(main())
