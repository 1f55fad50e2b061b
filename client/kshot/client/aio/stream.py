"""The parts of a response, as they come to an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc

from kshot.client.aio.connection import task_cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kshot.client.aio.connection import AsyncConnection
    from kshot.client.exchange.call import Call


class AsyncStream:
    """An iterator over the parts; the call is made for the first one.

    It ends with them or with `cancel`, which any task may call; the iterator ends then, too.
    """

    def __init__(self, connection: AsyncConnection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self._begun: tuple[Any, int] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 -- the message of the call
        if self._over:
            raise StopAsyncIteration
        try:
            if self._begun is None:
                self._begun = await self._connection.begin(self._call)
            part = grpc.aio.EOF if self._over else await self._begun[0].read()
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if self._given_up():
                raise StopAsyncIteration from error
            self.cancel()
            await self._connection.fail(error, self._call)
        except BaseException:
            self.cancel()
            raise
        if part is grpc.aio.EOF:
            self.cancel()
            raise StopAsyncIteration
        return part

    def cancel(self) -> None:
        """End the call, at the server too, unless it is done."""
        self._over = True
        begun, self._begun = self._begun, None
        if begun is not None:
            self._connection.end(*begun)

    def _given_up(self) -> bool:
        return self._over and not task_cancelled()

    def from_thread(self) -> Iterator[Any]:
        """Return an iterator over the parts for another thread, while this event loop runs."""
        loop = asyncio.get_running_loop()

        async def following() -> Any:  # noqa: ANN401 -- as above
            return await anext(self, None)

        def parts() -> Iterator[Any]:
            while True:
                part = asyncio.run_coroutine_threadsafe(following(), loop).result()
                if part is None:
                    return
                yield part

        return parts()

    def __del__(self) -> None:
        self.cancel()
