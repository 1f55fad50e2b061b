"""Answers in parts whose callers leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from kshot.gateway.answers import Parts


@pytest.mark.parametrize("sent", ["nothing", "the head", "a part"])
def test_what_makes_the_parts_ends_with_the_caller(sent: str) -> None:
    """Also where no part was asked for yet: closing a generator that has not begun does nothing."""
    taken = {"nothing": 0, "the head": 1, "a part": 2}[sent]
    ended: list[str] = []

    async def parts() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"part"

    async def main() -> None:
        left, count = asyncio.Event(), 0

        async def send(_message: Mapping[str, Any]) -> None:
            nonlocal count
            if count == taken:
                left.set()
                await asyncio.Event().wait()
            count += 1

        async def receive() -> dict[str, str]:
            await left.wait()
            return {"type": "http.disconnect"}

        answer = Parts(parts(), lambda: ended.append("call"), "text/plain", {})
        async with asyncio.timeout(30):
            await answer({}, receive, send)

    asyncio.run(main())

    assert ended == ["call"]
