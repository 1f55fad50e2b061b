"""Bodies of requests, within bounds: for each, and for all together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request

from kshot.gateway.errors import RequestError
from kshot.gateway.host_shares import HostShares

# Base64 makes three bytes four; what is beside the images is small.
_JSON_SHARE, _JSON_REST = 4 / 3, 2**20
# Of bodies that are read or parsed at once.
_MOST_TOGETHER = 8
_MOST_SECONDS = 60.0
# So much is read of callers who may be nobody.
_FREE_BYTES = 2**18


class Bodies:
    """Reads bodies of at most what a message of `max_message_bytes` becomes as JSON."""

    def __init__(self, max_message_bytes: int) -> None:
        self._most = round(max_message_bytes * _JSON_SHARE) + _JSON_REST
        self._room = HostShares(_MOST_TOGETHER * self._most)

    @asynccontextmanager
    async def read(
        self, request: Request, admit: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[bytearray]:
        """Hold a body inside the block; raise `RequestError` where it is too large, or too many.

        Awaits `admit`, which raises if nothing more is to be read, once the body is long.
        """
        whole = [bytearray()]  # parts and their join would be there twice
        host = host_of(request)
        size = 0
        try:
            self._check(int(request.headers.get("content-length") or 0))
            try:
                async with asyncio.timeout(_MOST_SECONDS):
                    async for part in request.stream():
                        self._check(size + len(part))
                        if part and not self._room.try_take(host, len(part)):
                            problem = "too many large requests at once; try again"
                            raise RequestError("TOO_MANY_BODIES", problem)
                        size += len(part)
                        if size - len(part) <= _FREE_BYTES < size:
                            await admit()
                        whole[0] += part
            except TimeoutError as error:
                problem = f"body: expected all of it within {_MOST_SECONDS:g} s; send it faster"
                raise RequestError("BODY_TOO_SLOW", problem) from error
            yield whole.pop()  # the block may free it
        finally:
            self._room.give(host, size)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise RequestError(
                "BODY_TOO_LARGE",
                f"body: expected at most {self._most} bytes, got more; send fewer or smaller "
                "images, or raise --max-message-bytes",
            )


def host_of(request: Request) -> str:
    """Return the address that a request comes from."""
    return "unknown" if request.client is None else request.client.host


def check_content_type(request: Request, expected: str) -> None:
    """Raise `RequestError` for a body of another type; no foreign form can send ours."""
    got = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if got != expected:
        raise RequestError(
            "CONTENT_TYPE",
            f"Content-Type: expected {expected}, got {got[:100] or 'none'}",
        )
