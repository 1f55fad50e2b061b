from __future__ import annotations

import asyncio
import math
from contextlib import ExitStack
from typing import Any, cast

import pytest

from kshot.bundle import Bundle
from kshot.server.admission import Admission, ImageRoom, room_bytes
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import QueueFull, ShuttingDown, TooManyCalls
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.inputs import EncodedImages, TensorImages


def test_admission_counts_and_closes() -> None:
    async def main() -> None:
        begin_call("Adapt")
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
            begin_call("Adapt", caller=name)
            async with room.hold(size_bytes):
                inside.append(name)
                await go_on[name].wait()

        sizes = {"a": 60, "b": 1000, "c": 40, "d": 2**30, "e": 2**26 + 1}
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


def test_a_call_gives_back_what_it_no_longer_holds() -> None:
    async def main() -> None:
        begin_call("Adapt")
        room = ImageRoom(small=10)

        async def call() -> None:
            begin_call("Adapt", caller="another")
            async with room.hold(6):
                pass

        async with room.hold(10) as shrink:
            waiting = asyncio.create_task(call())
            shrink(12)  # no more than it has
            shrink(5)
            await asyncio.sleep(0)
            assert not waiting.done()
            shrink(4)
            await asyncio.wait([waiting])
        async with room.hold(10):
            pass

    asyncio.run(main())


def test_no_caller_takes_all_places() -> None:
    async def main() -> None:
        admission = Admission(60)
        inside = ExitStack()

        async def take_all(caller: str) -> int:
            begin_call("Adapt", caller=caller)
            for count in range(60):
                try:
                    inside.enter_context(admission.admit())
                except TooManyCalls:
                    return count
            return 60

        assert [await asyncio.create_task(take_all(caller)) for caller in "ab"] == [40, 13]
        inside.close()
        assert await asyncio.create_task(take_all("b")) == 40

    asyncio.run(main())


def test_a_caller_leaves_room_for_another() -> None:
    """His further images wait, however many he sends; those of others come first."""

    async def main() -> None:
        room, inside = ImageRoom(small=100), list[str]()
        ends = asyncio.Event()

        async def call(caller: str) -> None:
            begin_call("Adapt", caller=caller)
            async with room.hold(20):
                inside.append(caller)
                await ends.wait()

        calls = [asyncio.create_task(call(caller)) for caller in "aaaaaaaabbc"]
        for _ in calls:
            await asyncio.sleep(0)

        assert "".join(inside) == "aabc"
        ends.set()
        await asyncio.gather(*calls)

    asyncio.run(main())


@pytest.mark.parametrize("came", [False, True])
def test_a_call_that_ends_while_it_waits_leaves_the_room(came: bool) -> None:
    """Also if its turn comes in the same moment."""

    async def main() -> None:
        begin_call("Adapt")
        room = ImageRoom(small=10)

        async def call(size_bytes: int) -> None:
            begin_call("Adapt", caller=str(size_bytes))
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


def test_only_images_that_may_be_taken_need_room(tiny_bundle: Bundle) -> None:
    """A shape alone is no image."""
    manifest = tiny_bundle.manifest
    served_model = ServedModel(tiny_bundle, predictor=cast(Any, None))
    each = 4 * math.prod(manifest.input.shape)
    two = TensorImages("UINT8", (2, 3, 3), bytes(18))
    none = TensorImages("UINT8", (2**40, 28, 28), b"")
    many = EncodedImages((b"x",) * (manifest.limits.max_support_count + 1))

    assert room_bytes([served_model, served_model], two) == 4 * each
    assert room_bytes([served_model], two, two) == 4 * each
    assert room_bytes([served_model], none, two) == 2 * each
    assert room_bytes([served_model], many) == room_bytes([served_model], None, none) == 0
