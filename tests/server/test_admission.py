from __future__ import annotations

import asyncio

import pytest

from kshot.server.admission import Admission, ImageRoom
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import QueueFull, ShuttingDown


def test_admission_counts_and_closes() -> None:
    async def main() -> None:
        admission = Admission(2)
        await admission.wait_idle()
        with admission.admit():
            with admission.admit(), pytest.raises(QueueFull), admission.admit():
                pass
            with admission.admit():
                admission.close()
            with pytest.raises(ShuttingDown), admission.admit():
                pass
        await admission.wait_idle()

    asyncio.run(main())


def test_images_wait_for_room_in_order_of_arrival() -> None:
    """Small calls and large ones do not wait for each other; one too large takes all the room."""

    async def main() -> None:
        begin_call("Adapt")
        room = ImageRoom(small=100, large=2**25)
        inside: list[str] = []
        go_on = {name: asyncio.Event() for name in "abcde"}

        async def call(name: str, size_bytes: int) -> None:
            async with room.hold(size_bytes):
                inside.append(name)
                await go_on[name].wait()

        sizes = {"a": 60, "b": 1000, "c": 40, "d": 2**30, "e": 2**24 + 1}
        calls = {}
        for name, size in sizes.items():
            calls[name] = asyncio.create_task(call(name, size))
            await asyncio.sleep(0)

        assert inside == ["a", "d"]
        go_on["a"].set()
        await calls["a"]
        await asyncio.sleep(0)
        assert inside == ["a", "d", "b"]
        go_on["d"].set()
        calls["b"].cancel()
        await asyncio.wait([calls["b"], calls["d"]])
        await asyncio.sleep(0)
        assert sorted(inside[3:]) == ["c", "e"]
        for event in go_on.values():
            event.set()
        await asyncio.wait([calls["c"], calls["e"]])
        async with room.hold(100), room.hold(2**25):
            pass  # all room was given back
        assert current_call().seconds["queue"] > 0

    asyncio.run(main())


@pytest.mark.parametrize("came", [False, True])
def test_a_call_that_ends_while_it_waits_leaves_the_room(came: bool) -> None:
    """Also if its turn comes in the same moment."""

    async def main() -> None:
        begin_call("Adapt")
        room = ImageRoom(small=10)

        async def call(size_bytes: int) -> None:
            async with room.hold(size_bytes):
                pass

        async with room.hold(10):
            waiting, behind = asyncio.create_task(call(10)), asyncio.create_task(call(5))
            await asyncio.sleep(0)
            if not came:
                waiting.cancel()
                await asyncio.wait([waiting])
        waiting.cancel()
        await asyncio.wait([waiting, behind])
        assert waiting.cancelled() and not behind.cancelled()
        async with room.hold(10):
            pass

    asyncio.run(main())
