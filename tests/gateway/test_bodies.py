"""Bodies have bounds: of size, of time, and of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import Request

from kshot.gateway import bodies as module
from kshot.gateway.bodies import Bodies
from kshot.gateway.errors import RequestError

MOST = 1024 * 4 // 3 + 1 + 2**20


def request(
    parts: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]] = (), host: str = "192.0.2.1"
) -> Request:
    """Make a request whose body comes in parts; after the last one nothing comes if it is empty."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        if not part:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    scope = {"type": "http", "method": "POST", "headers": list(headers), "client": (host, 1)}
    return Request(scope, receive)


async def admit() -> None:
    """Let everybody go on."""


def read(bodies: Bodies, asked: Request, admit: Callable[[], Awaitable[None]] = admit) -> bytearray:
    async def main() -> bytearray:
        async with bodies.read(asked, admit) as content:
            return content

    return asyncio.run(main())


def test_parts_are_joined() -> None:
    assert read(Bodies(1024), request([b"ab", b"c"])) == b"abc"


def test_what_is_too_large_is_refused_before_it_comes() -> None:
    length = [(b"content-length", str(MOST + 1).encode())]

    with pytest.raises(RequestError, match="--max-message-bytes") as caught:
        read(Bodies(1024), request([], length))

    assert caught.value.status == 413


def test_all_bodies_together_have_a_bound() -> None:
    """A host leaves room for others; what has been answered counts no more."""
    bodies = Bodies(1024)
    part = bytes(MOST - 1)
    held: list[str] = []

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for host in [*["192.0.2.1"] * 6, "192.0.2.2"]:
                try:
                    await stack.enter_async_context(bodies.read(request([part], (), host), admit))
                except RequestError as error:
                    assert error.reason == "TOO_MANY_BODIES"
                else:
                    held.append(host)

    asyncio.run(main())
    assert held == [*["192.0.2.1"] * 5, "192.0.2.2"]
    assert len(read(bodies, request([part]))) == MOST - 1


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SECONDS", 0.01)

    with pytest.raises(RequestError, match="send it faster") as caught:
        read(Bodies(1024), request([b"a", b"", b"b"]))

    assert caught.value.status == 408


def test_callers_are_asked_for_once_a_body_is_long() -> None:
    asked: list[None] = []

    async def note() -> None:
        asked.append(None)

    short, long = bytes(2**18), [bytes(2**17)] * 4
    assert read(Bodies(1024), request([short]), note) == short
    assert asked == []
    assert read(Bodies(1024), request(long), note) == b"".join(long)
    assert asked == [None]


def test_nothing_more_is_read_of_who_is_refused() -> None:
    async def refuse() -> None:
        raise PermissionError

    unread = request([bytes(2**18), b"a", b""])

    with pytest.raises(PermissionError):
        read(Bodies(1024), unread, refuse)
