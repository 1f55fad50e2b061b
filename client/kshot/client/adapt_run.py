"""An adaptation that tells how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kshot.client.errors import CancelledError, DataLossError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any, Self

    from kshot.client.adapted_model import AdaptedModel
    from kshot.client.kept_model import KeptModel

_Model = TypeVar("_Model")


@dataclass(frozen=True)
class AdaptProgress:
    """How far an adaptation is.

    `stage` is what the server does with `model`: queued, preparing, adapting, estimating or
    storing. `step_count` of `total_step_count` inner steps are done (0 where that is not known);
    `support_loss` has the losses in nats of those since the progress before.
    """

    model: str
    stage: str
    step_count: int
    total_step_count: int
    support_loss: tuple[float, ...]


class AdaptRun:
    """An adaptation under way: iterate over it for its progress, then ask for its `result`.

    It is a context manager; leaving the block before the end cancels the adaptation.
    """

    def __init__(
        self,
        events: Generator[Any],
        read: Callable[[Any], AdaptProgress | KeptModel],
        handle: Callable[[KeptModel], AdaptedModel],
    ) -> None:
        self._events = events
        self._read = read
        self._handle = handle
        self._result: AdaptedModel | None = None
        self._cancelled = False

    def __iter__(self) -> Iterator[AdaptProgress]:
        """Yield progress until the adaptation is done; raise `KshotError` if it fails."""
        for event in self._events:
            told = self._read(event)
            if isinstance(told, AdaptProgress):
                yield told
            else:
                self._result = self._handle(told)

    def result(self) -> AdaptedModel:
        """Wait for the adapted model; raise `CancelledError` after `cancel`."""
        for _ in self:
            pass
        return check_result(self._result, cancelled=self._cancelled)

    def cancel(self) -> None:
        """Stop the adaptation on the server unless it is done."""
        self._cancelled = self._result is None
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.cancel()


def check_result(result: _Model | None, *, cancelled: bool) -> _Model:
    """Return the result of a run that is over; raise `KshotError` where there is none."""
    if result is not None:
        return result
    if cancelled:
        raise CancelledError("the adaptation was cancelled before it was done")
    raise DataLossError("the adaptation ended without a result")
