from __future__ import annotations

import asyncio

from kshot.server.drain_grace import Grace


def test_one_grace_serves_all_waits() -> None:
    async def main() -> None:
        grace = Grace(0.05, asyncio.Event())
        await grace.wait(asyncio.sleep(1000))
        assert grace.remaining() == 0

    asyncio.run(main())


def test_no_grace_is_left_to_those_who_hurry() -> None:
    async def main() -> None:
        hurry = asyncio.Event()
        grace = Grace(1000, hurry)
        waiting = asyncio.ensure_future(grace.wait(asyncio.sleep(1000)))
        await grace.wait(asyncio.sleep(0))
        assert grace.remaining() > 900
        hurry.set()
        await waiting
        assert grace.remaining() == 0

    asyncio.run(main())
