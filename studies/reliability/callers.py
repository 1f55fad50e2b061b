"""Callers that adapt, predict, list, export and delete at once, and check every answer."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.reliability.keys import keyed
from studies.reliability.ledger import Entry, Ledger
from studies.reliability.tasks import TOLERANCE, WIDE_TOLERANCE, Task, exported_difference

# Answers of a server that is full, starting or stopping: the caller tries again.
BUSY = {"QUEUE_FULL", "TOO_MANY_CALLS", "ENGINE_UNAVAILABLE", "SHUTTING_DOWN", "UNAVAILABLE"}
MOST_MODELS = 400
_PAUSE_SECONDS = 0.05
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]
Operation = Callable[[Any, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Mix:
    """How often callers do what, and how they call.

    `short_lived` is the share of adapted models that expire within 3 s, `seconds` each call's
    deadline. `cut` says that the server is killed under the calls, so they may break off.
    """

    adapt: float = 0.18
    predict: float = 0.62
    adapt_and_predict: float = 0.05
    delete: float = 0.10
    look: float = 0.045
    export: float = 0.005
    short_lived: float = 0.3
    seconds: float = 120.0
    cut: bool = False


@dataclass
class Callers:
    """Callers of one server, which share a ledger; `count` of them on some connections."""

    address: str
    tasks: Sequence[Task]
    ledger: Ledger
    count: int = 64
    connection_count: int = 8
    mix: Mix = field(default_factory=Mix)
    done: int = 0
    _stopped: bool = False

    async def run(self, requests: int, seed: int) -> None:
        """Make some requests, all callers together."""
        async with self.calling(seed, requests) as group:
            await asyncio.gather(*group)

    @asynccontextmanager
    async def calling(
        self, seed: int | str, requests: int | None = None
    ) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Let the callers call until the block ends, or until there were enough requests."""
        self._stopped, until = False, None if requests is None else self.done + requests
        channels = [open_channel(self.address) for _ in range(self.connection_count)]
        stubs = [AdaptationServiceStub(channel) for channel in channels]
        group = [
            asyncio.create_task(self._call(stubs[place % len(stubs)], f"{seed}/{place}", until))
            for place in range(self.count)
        ]
        try:
            yield group
        finally:
            self._stopped = True
            await asyncio.gather(*group)
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _call(self, stub: Any, seed: str, until: int | None) -> None:  # noqa: ANN401 -- grpc has no type for aio stubs
        chance = random.Random(seed)  # noqa: S311 -- draws operations
        mix = self.mix
        operations: dict[Operation, float] = {
            self._adapt: mix.adapt,
            self._predict: mix.predict,
            self._adapt_and_predict: mix.adapt_and_predict,
            self._delete: mix.delete,
            self._look: mix.look,
            self._export: mix.export,
        }
        while not self._stopped and (until is None or self.done < until):
            self.done += 1
            (operation,) = chance.choices(list(operations), list(operations.values()))
            if self.ledger.live_count > MOST_MODELS and operation == self._adapt:
                operation = self._delete
            try:
                await operation(stub, chance)
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                cut = self.mix.cut and error.code() is grpc.StatusCode.UNAVAILABLE
                if reason not in BUSY and not cut:
                    self.ledger.fault(f"{error.code().name} {reason}: {error.details()}")
                self.ledger.counts["busy"] += 1
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _adapt(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        task, request = chance.choice(self.tasks), wire.AdaptRequest()
        request.CopyFrom(task.request)
        short = chance.random() < self.mix.short_lived
        request.options.ttl.FromMilliseconds(chance.randrange(200, 3000) if short else 3_600_000)
        response = await stub.Adapt(request, timeout=self.mix.seconds)
        self.ledger.acknowledge(task, response)
        self.ledger.counts["adapt"] += 1

    async def _predict(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        entry = self.ledger.pick(chance)
        if entry is None:
            return await self._adapt(stub, chance)
        number = chance.randrange(len(entry.task.queries))
        await self.check(stub, entry, number)
        return None

    async def check(self, stub: Any, entry: Entry, number: int) -> None:  # noqa: ANN401 -- see above
        """Ask a model for queries and check what it answers, or why it does not."""
        queries = entry.task.queries[number]
        request = wire.PredictRequest(adapted_model=entry.id, queries=queries)
        sent = time.time()
        async with self._found(entry):
            response = await stub.Predict(request, timeout=self.mix.seconds)
            self.ledger.predicted(entry, number, response, sent)
            self.ledger.counts["predict"] += 1

    async def _adapt_and_predict(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        task = chance.choice(self.tasks)
        number = chance.randrange(len(task.queries))
        request = wire.AdaptAndPredictRequest(
            model=task.request.model,
            support_set=task.request.support_set,
            options=task.request.options,
            queries=task.queries[number],
        )
        response = await stub.AdaptAndPredict(request, timeout=self.mix.seconds)
        tolerance = TOLERANCE if response.report.slot_bucket <= 1 else WIDE_TOLERANCE
        self.ledger.compare("AdaptAndPredict", task, number, response.probabilities, tolerance)
        self.ledger.counts["adapt_and_predict"] += 1

    async def _delete(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        entry = self.ledger.pick(chance)
        if entry is None:
            return
        request = wire.DeleteAdaptedModelRequest(adapted_model=entry.id)
        entry.delete_begun = entry.delete_begun or time.time()
        sent = time.time()
        async with self._found(entry):
            await stub.DeleteAdaptedModel(request, timeout=self.mix.seconds)
            self.ledger.answered(entry, sent)
            entry.delete_ended = entry.delete_ended or time.time()
            self.ledger.counts["delete"] += 1

    async def _look(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        entry = self.ledger.pick(chance)
        if entry is None:
            return
        if chance.random() < 0.5:
            request = wire.GetAdaptedModelRequest(adapted_model=entry.id)
            sent = time.time()
            async with self._found(entry):
                response = await stub.GetAdaptedModel(request, timeout=self.mix.seconds)
                self.ledger.answered(entry, sent)
                self._described(response.adapted_model)
        else:
            page = wire.ListAdaptedModelsRequest(page_size=20)
            response = await stub.ListAdaptedModels(page, timeout=self.mix.seconds)
            for adapted in response.adapted_models:
                self._described(adapted)
        self.ledger.counts["look"] += 1

    def _described(self, adapted: wire.AdaptedModel) -> None:
        entry = self.ledger.entries.get(adapted.id)
        if entry is None:  # another caller waits for the answer that names it
            return
        if adapted.weights_digest != entry.weights_digest:
            self.ledger.fault(f"{adapted.id}: described with other weights")
        if list(adapted.class_names) != list(entry.task.class_names):
            self.ledger.fault(f"{adapted.id}: described with other classes")

    async def _export(self, stub: Any, chance: random.Random) -> None:  # noqa: ANN401 -- see above
        entry = self.ledger.pick(chance)
        if entry is None:
            return
        request, sent = wire.ExportAdaptedModelRequest(adapted_model=entry.id), time.time()
        async with self._found(entry):
            parts = [part async for part in stub.ExportAdaptedModel(request, timeout=600)]
            self.ledger.answered(entry, sent)
            content = b"".join(part.chunk for part in parts)
            if hashlib.sha256(content).hexdigest() != parts[0].header.sha256:
                self.ledger.fault(f"{entry.id}: its file has another digest")
            elif exported_difference(entry.task, content) > 10 * TOLERANCE + entry.tolerance:
                self.ledger.fault(f"{entry.id}: its file answers otherwise")
            self.ledger.counts["export"] += 1

    @asynccontextmanager
    async def _found(self, entry: Entry) -> AsyncIterator[None]:
        """Let a call about a model fail because the model has gone as it should."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if not self.ledger.refused(entry, reason_of(error)):
                raise
            self.ledger.counts["gone"] += 1


def open_channel(address: str, key: str = "") -> grpc.aio.Channel:
    """Open a connection of its own, which comes back soon after the server does."""
    return grpc.aio.insecure_channel(address, _OPTIONS, interceptors=keyed(key))


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason of the `ErrorInfo` of an error, or nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = details_pb2.ErrorInfo()
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(info):
                    return str(info.reason)
    return ""
