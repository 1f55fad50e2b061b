"""A call for an adapted model, to be awaited or to have the model for a while."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kshot.client.aio.adapted_model import AsyncAdaptedModel


class ModelCall(Coroutine[Any, Any, "AsyncAdaptedModel"]):
    """`await` it for the model, or let `async with` delete the model at the end of a block.

    It is a coroutine: tasks are made of it as of any other.
    """

    def __init__(self, call: Coroutine[Any, Any, AsyncAdaptedModel]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, AsyncAdaptedModel]:
        return self._call.__await__()

    def send(self, value: Any) -> Any:  # noqa: ANN401 -- as of any coroutine
        """Go on until it waits again."""
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 -- as of any coroutine
        """Raise an error where it waits."""
        return self._call.throw(*error)

    def close(self) -> None:
        """End it where it waits."""
        self._call.close()

    async def __aenter__(self) -> AsyncAdaptedModel:
        self._model = await self._call
        return self._model

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._model.__aexit__(kind, error, traceback)
