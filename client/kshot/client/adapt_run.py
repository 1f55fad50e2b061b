"""An adaptation that tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kshot.client.adapted_model import AdaptedModel
from kshot.client.errors import CancelledError, DataLossError
from kshot.client.options import decode_choice
from kshot.v1 import adaptation_pb2 as wire


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
        events: Generator[wire.AdaptStreamResponse],
        decode: Callable[[wire.AdaptResponse], AdaptedModel],
    ) -> None:
        self._events = events
        self._decode = decode
        self._result: AdaptedModel | None = None
        self._cancelled = False

    def __iter__(self) -> Iterator[AdaptProgress]:
        """Yield progress until the adaptation is done; raise `KshotError` if it fails."""
        for event in self._events:
            if event.WhichOneof("event") == "result":
                self._result = self._decode(event.result)
            else:
                yield decode_progress(event.progress)

    def result(self) -> AdaptedModel:
        """Wait for the adapted model; raise `CancelledError` after `cancel`."""
        for _ in self:
            pass
        if self._result is not None:
            return self._result
        if self._cancelled:
            raise CancelledError("the adaptation was cancelled before it was done")
        raise DataLossError("the adaptation ended without a result")

    def cancel(self) -> None:
        """Stop the adaptation on the server unless it is done."""
        self._cancelled = self._result is None
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


def decode_progress(progress: wire.AdaptProgress) -> AdaptProgress:
    """Read a message of progress."""
    return AdaptProgress(
        model=progress.model,
        stage=decode_choice("adapt_stage", progress.stage),
        step_count=progress.step_count,
        total_step_count=progress.total_step_count,
        support_loss=tuple(progress.support_loss),
    )
