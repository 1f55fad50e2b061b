from __future__ import annotations

import asyncio

from kshot.server.limits.shares import Shares


def fill(shares: Shares, caller: str) -> int:
    count = 0
    while shares.try_take(caller):
        count += 1
    return count


def test_the_greedy_leave_room_for_the_next() -> None:
    shares = Shares(100)

    taken = [fill(shares, caller) for caller in "abcd"]

    assert taken == [51, 25, 13, 6]
    assert shares.taken == sum(taken)


def test_one_place_can_be_taken_and_given() -> None:
    shares = Shares(1)

    assert shares.try_take("a")
    assert not shares.try_take("b")
    shares.give("a")
    assert shares.try_take("b")


def test_a_caller_has_a_limit_of_its_own() -> None:
    shares = Shares(100, most=3)

    assert [fill(shares, caller) for caller in "ab"] == [3, 3]


def test_who_waits_comes_in_order_but_not_behind_other_callers() -> None:
    async def main() -> None:
        shares = Shares(10)
        await shares.take("a", 6)
        order: list[str] = []

        async def wait(name: str, caller: str, amount: int) -> None:
            await shares.take(caller, amount)
            order.append(name)

        waiting = [
            asyncio.create_task(wait(*each))
            for each in (("a8", "a", 8), ("a1", "a", 1), ("b9", "b", 9), ("c2", "c", 2))
        ]
        await asyncio.sleep(0)
        assert order == ["c2"]
        waiting[2].cancel()
        shares.give("a", 6)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["c2", "a8"]  # the caller that holds more than is free waits
        shares.give("a", 8)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == ["c2", "a8", "a1"]
        shares.give("a", 1)
        shares.give("c", 2)
        assert shares.taken == 0

    asyncio.run(main())


def test_room_that_comes_with_the_end_of_a_call_is_given_back() -> None:
    async def main() -> None:
        shares = Shares(1)
        await shares.take("a")
        waiting = asyncio.create_task(shares.take("b"))
        await asyncio.sleep(0)
        shares.give("a")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert shares.taken == 0

    asyncio.run(main())
