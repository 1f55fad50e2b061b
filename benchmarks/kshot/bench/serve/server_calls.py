"""The connections of one bench to one server, its calls, and the adapted models that it makes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
import grpc

from kshot.bench.report import say
from kshot.bench.serve import requests
from kshot.bench.serve.load_generator import OK, Answer, Send
from kshot.bench.serve.requests import Workload, noise, support_set
from kshot.client import ModelCapabilities, ResolvedOptions
from kshot.client.commands.options import Server
from kshot.v1 import adaptation_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"].full_name
CALL_SECONDS = 120.0
_CONCURRENT_DELETES = 8
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Channels to one address would share a connection; another client has its own.
    ("grpc.use_local_subchannel_pool", 1),
]


Metadata = tuple[tuple[str, str], ...]
Call = Callable[[bytes], Coroutine[Any, Any, Answer]]


def open_connection(server: Server) -> grpc.aio.Channel:
    """Open a connection to a server that shares nothing with other connections."""
    secure = server.credentials().channel_credentials()
    if secure is None:
        return grpc.aio.insecure_channel(server.address, options=_CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(server.address, secure, options=_CHANNEL_OPTIONS)


def make_call(
    channel: grpc.aio.Channel,
    method: str,
    timeout: float = CALL_SECONDS,
    metadata: Metadata = (),
) -> Call:
    """Return a function that sends a request and gives its answer, of whatever status."""
    send: Callable[..., Awaitable[bytes]] = channel.unary_unary(f"/{SERVICE}/{method}")

    async def call(request: bytes) -> Answer:
        try:
            return Answer(OK, await send(request, timeout=timeout, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name)

    return call


def try_out(server: Server, workload: Workload, model: ModelCapabilities) -> ResolvedOptions:
    """Adapt, predict and delete once; return the options as the server resolved them.

    Raises `KshotError` when the server refuses the workload.
    """
    images, labels = support_set(workload, model)
    with server.client(CALL_SECONDS) as client:
        adapted = client.adapt(images, labels, model=model.model, **workload.options)
        try:
            adapted.predict(noise(model.input_shape, workload.images))
        finally:
            adapted.delete()
        return adapted.description.options


class Session:
    """Sends the calls of a bench over two connections: one adapts and deletes, one predicts.

    What `adapt` makes lasts until `forget`, what `keep` makes until `forget_kept`.
    """

    def __init__(
        self,
        adapting: grpc.aio.Channel,
        predicting: grpc.aio.Channel,
        workload: Workload,
        model: ModelCapabilities,
        metadata: Metadata = (),
    ) -> None:
        self._adapt = make_call(adapting, "Adapt", metadata=metadata)
        self._delete = make_call(adapting, "DeleteAdaptedModel", metadata=metadata)
        self._predict = make_call(predicting, "Predict", metadata=metadata)
        self._model = model
        self._next_adapt = requests.adapt_requests(workload, model)
        self._queries = noise(model.input_shape, workload.images, seed=1)
        self._made: list[asyncio.Task[Answer]] = []
        self._kept: list[asyncio.Task[Answer]] = []

    async def adapt(self) -> Answer:
        """Adapt to the support set with a new seed."""
        return await self._adapt_into(self._made, self._next_adapt())

    def adapting(self, workload: Workload) -> Send:
        """Return a function that adapts to another workload; what it makes lasts until `forget`."""
        next_adapt = requests.adapt_requests(workload, self._model)
        return lambda: self._adapt_into(self._made, next_adapt())

    async def keep(self) -> str:
        """Adapt and return the id; raises `ClickException` when the server refuses."""
        answer = await self._adapt_into(self._kept, self._next_adapt())
        if answer.code != OK:
            raise click.ClickException(f"Adapt answered {answer.code}")
        return _id(answer)

    def predict(self, adapted_models: Sequence[str]) -> Send:
        """Return a function that predicts with each adapted model in turn."""
        return self.predict_by(self._predict, adapted_models)

    def predict_by(self, call: Call, adapted_models: Sequence[str]) -> Send:
        """Return a function that sends the same predictions by another call."""
        next_predict = requests.predict_requests(adapted_models, self._queries)
        return lambda: call(next_predict())

    async def forget(self) -> None:
        """Delete what `adapt` has made."""
        await self._delete_all(self._made)

    async def forget_kept(self) -> None:
        """Delete what `keep` has made."""
        await self._delete_all(self._kept)

    async def _delete_all(self, made: list[asyncio.Task[Answer]]) -> None:
        answers = await asyncio.gather(*made)
        made.clear()
        await self.delete(_id(answer) for answer in answers if answer.code == OK)

    async def delete(self, adapted_models: Iterable[str]) -> None:
        """Delete adapted models; say on stderr how many the server did not delete."""
        waiting = list(adapted_models)
        refusals: Counter[str] = Counter()

        async def work() -> None:
            while waiting:
                request = wire.DeleteAdaptedModelRequest(adapted_model=waiting.pop())
                answer = await self._delete(request.SerializeToString())
                if answer.code != OK:
                    refusals[answer.code] += 1

        await asyncio.gather(*(work() for _ in range(_CONCURRENT_DELETES)))
        for code, count in refusals.items():
            say(f"{count} adapted models were not deleted ({code}); they expire within an hour")

    async def _adapt_into(self, made: list[asyncio.Task[Answer]], request: bytes) -> Answer:
        # An interrupt must not cancel the call: the server may keep what nobody can delete then.
        made.append(asyncio.create_task(self._adapt(request)))
        return await asyncio.shield(made[-1])


@asynccontextmanager
async def open_session(
    server: Server, workload: Workload, model: ModelCapabilities, *, own: bool
) -> AsyncIterator[Session]:
    """Open a session around a block, and at its end delete its models from another's server.

    The bench's own server ends anyway.
    """
    async with open_connection(server) as adapting, open_connection(server) as predicting:
        metadata = server.credentials().metadata
        session = Session(adapting, predicting, workload, model, metadata)
        try:
            yield session
        finally:
            if not own:
                await session.forget()
                await session.forget_kept()


def _id(answer: Answer) -> str:
    return wire.AdaptResponse.FromString(answer.content).adapted_model.id
