"""Answers that come in parts, and callers who leave before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


class CallerLeftError(Exception):
    """Nobody waits for the answer."""


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Wait for work that ends with its caller; raise `CallerLeftError` then."""
    return await _first(asyncio.ensure_future(work), request.receive)


class Parts:
    """An answer sent as its parts come; it ends where its caller leaves.

    `end` ends what makes the parts. The generator cannot: one that has not begun does nothing when
    it is closed.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        end: Callable[[], object],
        content_type: str,
        headers: Mapping[str, str],
    ) -> None:
        self._parts, self._end = parts, end
        self._headers = {"content-type": content_type, **headers}

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""

        async def stream() -> None:
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with aclosing(self._parts) as parts:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            with suppress(CallerLeftError):
                await _first(asyncio.ensure_future(stream()), receive)
        finally:
            self._end()


async def _first(
    work: asyncio.Future[Result], receive: Callable[[], Awaitable[Mapping[str, object]]]
) -> Result:
    """Wait for work until its caller leaves; then cancel it."""
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise CallerLeftError
    finally:
        for waiting in (work, gone):
            waiting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await waiting


async def _gone(receive: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
