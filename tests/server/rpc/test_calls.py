from __future__ import annotations

import asyncio
import time
from typing import Any, NoReturn, cast

import pytest

from kshot.server.call_context import Call
from kshot.server.errors import RequestError
from kshot.server.limits.pace import LARGE_BYTES, Pace
from kshot.server.rpc import calls
from kshot.server.rpc.calls import CallLimits, Context, Kind, OpenCalls

_LIMITS = CallLimits(dict.fromkeys(Kind, 10), 2**20, 30.0, 30.0)
_LARGE = b"x" * (LARGE_BYTES + 1)


class Sent:
    """A call whose message is there; notes whether it was read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.was_read = content, False

    async def read(self) -> bytes:
        self.was_read = True
        return self.content


async def _refuse(_call: Call, _context: Context, error: RequestError) -> NoReturn:
    raise error


def test_who_had_large_messages_refused_is_read_later_and_others_at_once() -> None:
    async def main() -> None:
        open_calls = OpenCalls(_LIMITS, _refuse)
        open_calls._pace = Pace(burst=0, rate=1)

        async def read(caller: str, sent: Sent, refused: bool = False) -> None:
            call = Call("Predict", caller, caller)
            opened = open_calls.begin(call, cast(Any, sent), Kind.OWN)
            assert await open_calls.read(opened) == sent.content
            if refused:
                open_calls.refused(call)
                open_calls.refused(call)  # which counts once

        await asyncio.create_task(read("greedy", Sent(_LARGE)))
        await asyncio.create_task(read("greedy", Sent(b"small"), refused=True))
        await asyncio.create_task(read("greedy", Sent(_LARGE), refused=True))
        late, other = Sent(b"small"), Sent(_LARGE)
        waiting = asyncio.create_task(read("greedy", late))
        await asyncio.create_task(read("other", other))

        assert other.was_read
        assert not late.was_read
        assert open_calls._pace._debts["greedy"].paid < asyncio.get_running_loop().time() + len(
            _LARGE
        )
        waiting.cancel()  # as gRPC does where the client leaves
        await asyncio.wait([waiting])
        assert not late.was_read

    asyncio.run(main())


def test_a_server_that_was_slow_takes_no_message_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_SLOW_BYTES", 0)  # eight may be slow

    async def main() -> list[bytes | None]:
        open_calls, come = OpenCalls(_LIMITS, _refuse), asyncio.Event()

        class Coming(Sent):
            async def read(self) -> bytes:
                await come.wait()
                return self.content

        async def read() -> bytes | None:
            opened = open_calls.begin(
                Call("Predict", "one", "one"), cast(Any, Coming(b"x")), Kind.OWN
            )
            return await open_calls.read(opened)

        reading = [asyncio.create_task(read()) for _ in range(10)]
        await asyncio.sleep(0.1)
        time.sleep(0.8)
        await asyncio.sleep(0.1)
        come.set()
        return await asyncio.gather(*reading)

    assert asyncio.run(main()) == [b"x"] * 10
