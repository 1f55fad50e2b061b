"""The calls of one bench to one server, and the adapted models that they made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import click

from kshot.bench.report import say
from kshot.bench.serve.load import OK, Answer, Send
from kshot.bench.serve.load_calls import (
    adapt_requests,
    delete_request,
    make_call,
    open_connection,
    predict_requests,
)
from kshot.bench.serve.workload import Workload, adapt_request, noise, queries, support_set
from kshot.client import Client, ModelCapabilities, ResolvedOptions
from kshot.v1 import adaptation_pb2 as wire

CALL_SECONDS = 120.0
# So many calls to delete are under way at once.
_DELETING = 8


def try_out(address: str, workload: Workload, model: ModelCapabilities) -> ResolvedOptions:
    """Adapt, predict and delete once; return the options as the server resolved them.

    Raises ``KshotError`` with what the server has against the workload.
    """
    images, labels = support_set(workload, model)
    with Client(address, timeout=CALL_SECONDS) as client:
        adapted = client.adapt(images, labels, model=model.model, **workload.options)
        try:
            adapted.predict(noise(model.input_shape, workload.images))
        finally:
            adapted.delete()
        return adapted.description.options


class Session:
    """Sends the calls of a bench over two connections: one adapts and deletes, one predicts.

    What `adapt` makes lasts until `forget`, what `keep` makes until the session ends.
    """

    def __init__(self, address: str, workload: Workload, model: ModelCapabilities) -> None:
        self._adapting = open_connection(address)
        self._predicting = open_connection(address)
        self._adapt = make_call(self._adapting, "Adapt", CALL_SECONDS)
        self._delete = make_call(self._adapting, "DeleteAdaptedModel", CALL_SECONDS)
        self._predict = make_call(self._predicting, "Predict", CALL_SECONDS)
        self._next_adapt = adapt_requests(adapt_request(workload, model))
        self._queries = queries(workload, model)
        self._made: list[bytes] = []
        self._kept: list[str] = []

    async def adapt(self) -> Answer:
        """Adapt to the support set with a seed of its own."""
        answer = await self._adapt(self._next_adapt())
        if answer.code == OK:
            self._made.append(answer.content)
        return answer

    async def keep(self) -> str:
        """Adapt and return the id; raises ``ClickException`` when it is refused."""
        answer = await self._adapt(self._next_adapt())
        if answer.code != OK:
            raise click.ClickException(f"Adapt answered {answer.code}")
        self._kept.append(_id(answer.content))
        return self._kept[-1]

    def predict(self, adapted_models: Sequence[str]) -> Send:
        """Make a function that predicts with each adapted model in turn."""
        next_predict = predict_requests(adapted_models, self._queries)
        return lambda: self._predict(next_predict())

    async def forget(self) -> None:
        """Delete what `adapt` has made."""
        made, self._made = self._made, []
        await self.delete(map(_id, made))

    async def forget_kept(self) -> None:
        """Delete what `keep` has made."""
        kept, self._kept = self._kept, []
        await self.delete(kept)

    async def delete(self, adapted_models: Iterable[str]) -> None:
        """Delete adapted models, and tell how many of them the server did not."""
        waiting = list(adapted_models)
        refusals: Counter[str] = Counter()

        async def work() -> None:
            while waiting:
                answer = await self._delete(delete_request(waiting.pop()))
                if answer.code != OK:
                    refusals[answer.code] += 1

        await asyncio.gather(*(work() for _ in range(_DELETING)))
        for code, count in refusals.items():
            say(f"{count} adapted models were not deleted ({code}); they expire within an hour")

    async def close(self) -> None:
        """End the connections."""
        await self._adapting.close()
        await self._predicting.close()


@asynccontextmanager
async def open_session(
    address: str, workload: Workload, model: ModelCapabilities, *, own: bool
) -> AsyncIterator[Session]:
    """Open a session around a block; at its end nothing is left on a server that goes on.

    What is left on the bench's own goes with it.
    """
    session = Session(address, workload, model)
    try:
        yield session
    finally:
        if not own:
            await session.forget()
            await session.forget_kept()
        await session.close()


def _id(content: bytes) -> str:
    return wire.AdaptResponse.FromString(content).adapted_model.id
