"""An adaptation that tells an event loop how far it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from kshot.client.adapt_run import AdaptProgress, check_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kshot.client.aio.adapted_model import AsyncAdaptedModel
    from kshot.client.aio.stream import AsyncStream
    from kshot.client.kept_model import KeptModel

    Started = tuple[AsyncStream, Callable[[Any], AdaptProgress | KeptModel]]


class AsyncAdaptRun:
    """An adaptation under way: `async for` gives its progress, `await run.result()` the model.

    It is a context manager; leaving the block before the end cancels the adaptation, as does
    cancelling a task that waits for it.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Started]],
        handle: Callable[[KeptModel], AsyncAdaptedModel],
    ) -> None:
        self._start = start
        self._handle = handle
        self._started: Started | None = None
        self._result: AsyncAdaptedModel | None = None
        self._cancelled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AdaptProgress:
        """Return the next progress until the adaptation is done; raise `KshotError` if it fails."""
        if self._started is None and not self._cancelled:
            self._started = await self._start()
        if self._started is None or self._cancelled:
            raise StopAsyncIteration
        events, read = self._started
        try:
            told = read(await anext(events))
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(told, AdaptProgress):
            return told
        self._result = self._handle(told)
        return await anext(self)  # which ends

    async def result(self) -> AsyncAdaptedModel:
        """Wait for the adapted model; raise `CancelledError` after `cancel`."""
        async for _ in self:
            pass
        return check_result(self._result, cancelled=self._cancelled)

    def cancel(self) -> None:
        """Stop the adaptation on the server unless it is done; any task may."""
        self._cancelled = self._result is None
        if self._started is not None:
            self._started[0].cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.cancel()
