"""Makes the calls of exchanges in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kshot.client.aio.stream import AsyncStream
from kshot.client.errors import UnavailableError
from kshot.client.exchange.call import Answer, Call, Done, Exchange, advance

if TYPE_CHECKING:
    from kshot.client.aio.connection import AsyncConnection
    from kshot.client.exchange.known_server import KnownServer

_Result = TypeVar("_Result")
_SMALL_BYTES = 2**20


class AsyncCaller:
    """The calls of a client to a server, of which it knows the more the more it calls."""

    def __init__(self, connection: AsyncConnection, server: KnownServer) -> None:
        self._connection = connection
        self._server = server

    async def run(self, exchange: Exchange[_Result], *images: object) -> _Result:
        """Make the calls of an exchange, and return its result; raises `KshotError`.

        If it sends images of any size, a thread encodes them and decodes the answers.
        """
        threaded = not all(map(_small, images))
        step = await _advance(exchange, None, threaded=threaded)
        while isinstance(step, Call):
            step = await _advance(exchange, await self._answer(step), threaded=threaded)
        return step.value

    def stream(self, call: Call) -> AsyncStream:
        """Return the parts of a response; the call is made for the first, and ends with them."""
        return AsyncStream(self._connection, call)

    async def _answer(self, call: Call) -> Answer:
        try:
            return await self._connection.call(call)
        except UnavailableError:
            self._server.forget()
            raise


async def _advance(
    exchange: Exchange[_Result], answer: Answer | None, *, threaded: bool
) -> Call | Done[_Result]:
    if threaded:
        return await asyncio.to_thread(advance, exchange, answer)
    return advance(exchange, answer)


def _small(images: object) -> bool:
    """Tell whether images are so few that encoding them takes no longer than a change of thread."""
    return isinstance(images, np.ndarray) and images.nbytes <= _SMALL_BYTES
