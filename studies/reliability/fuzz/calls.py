"""Calls: bytes for every method of every service on the port of a running server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.reliability.callers import open_channel, reason_of
from studies.reliability.fuzz.mutation import bytes_like, message_like
from studies.reliability.fuzz.requests import infer_request
from studies.reliability.ledger import Ledger
from studies.reliability.served import Served
from studies.reliability.tasks import Task

_SERVICE = "kshot.v1.AdaptationService"
_INFERENCE = "inference.GRPCInferenceService"
_SECONDS = 2.0
_AT_ONCE = 32
_ASK_EVERY = 500
# What no input may bring about.
_FORBIDDEN = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
# What the asynchronous client says by itself where a call ends while it still writes.
_CLIENTS_OWN = "Internal error from Core"
_UNPARSED = {"expected a message of this method"}


class Calls:
    """Draws calls to all services: a method and its bytes."""

    def __init__(self, tasks: Sequence[Task], adapted_model: str) -> None:
        small = min(tasks, key=lambda task: task.request.ByteSize())
        adapt, queries = small.request, small.queries[0]
        self._requests: dict[str, list[Any]] = {
            f"/{_SERVICE}/Adapt": [task.request for task in tasks[:6]],
            f"/{_SERVICE}/AdaptStream": [
                wire.AdaptStreamRequest(adapt=task.request) for task in tasks[:2]
            ],
            f"/{_SERVICE}/Predict": [
                wire.PredictRequest(adapted_model=adapted_model, queries=tasks[0].queries[0])
            ],
            f"/{_SERVICE}/AdaptAndPredict": [
                wire.AdaptAndPredictRequest(
                    model=adapt.model,
                    support_set=adapt.support_set,
                    options=adapt.options,
                    queries=queries,
                )
            ],
            f"/{_SERVICE}/GetAdaptedModel": [
                wire.GetAdaptedModelRequest(adapted_model=adapted_model)
            ],
            f"/{_SERVICE}/ListAdaptedModels": [wire.ListAdaptedModelsRequest(page_size=2)],
            f"/{_SERVICE}/DeleteAdaptedModel": [
                wire.DeleteAdaptedModelRequest(adapted_model=adapted_model[:-1])
            ],
            f"/{_SERVICE}/ExportAdaptedModel": [
                wire.ExportAdaptedModelRequest(adapted_model=adapted_model)
            ],
            f"/{_SERVICE}/ReviseAdaptedModel": [
                wire.ReviseAdaptedModelRequest(
                    adapted_model=adapted_model,
                    removed_indices=[0],
                    relabellings=[wire.Relabelling(index=1, class_name="other")],
                    added=adapt.support_set,
                )
            ],
            f"/{_SERVICE}/ImportAdaptedModel": [
                wire.ImportAdaptedModelRequest(header=wire.ImportHeader(sha256="0" * 64)),
                wire.ImportAdaptedModelRequest(chunk=b"onnx"),
            ],
            f"/{_SERVICE}/GetCapabilities": [wire.GetCapabilitiesRequest()],
            f"/{_INFERENCE}/ModelInfer": [
                infer_request(adapted_model, queries, typed=typed)
                for queries in tasks[0].queries[:2]
                for typed in (False, True)
            ],
            f"/{_INFERENCE}/ModelMetadata": [oip.ModelMetadataRequest(name=adapted_model)],
            f"/{_INFERENCE}/ModelReady": [oip.ModelReadyRequest(name=adapt.model, version="1")],
            f"/{_INFERENCE}/ServerMetadata": [oip.ServerMetadataRequest()],
            f"/{_SERVICE}/Nothing": [wire.GetCapabilitiesRequest()],
            "/grpc.health.v1.Health/Check": [health_pb2.HealthCheckRequest(service=_SERVICE)],
            "/grpc.health.v1.Health/Watch": [health_pb2.HealthCheckRequest(service=_SERVICE)],
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=_SERVICE),
            ],
        }
        self._methods = list(self._requests)

    def draw(self, chance: random.Random) -> tuple[str, bytes]:
        """Return a method and the bytes to send."""
        method = chance.choice(self._methods)
        base = chance.choice(self._requests[method])
        content = base.SerializeToString()
        if not base.DESCRIPTOR.fields or chance.random() < 0.4:
            return method, bytes_like(chance, content, [content])
        request = type(base)()
        request.CopyFrom(base)
        message_like(chance, request)
        if method.endswith("DeleteAdaptedModel") and request.adapted_model not in ("", content):
            request.adapted_model = request.adapted_model[:20]  # the model of the proof stays
        return method, request.SerializeToString()


async def fuzz_calls(
    served: Served, tasks: Sequence[Task], count: int, seed: int, faults: list[str]
) -> Counter[str]:
    """Send calls, 32 at once; return the outcomes. A healthy caller asks in between."""
    channel, chance, outcomes = open_channel(served.address), random.Random(seed), Counter[str]()  # noqa: S311 -- draws inputs
    stub: Any = AdaptationServiceStub(channel)
    ledger, entry = Ledger(), None
    request = wire.AdaptRequest()
    request.CopyFrom(tasks[0].request)
    request.options.ttl.FromSeconds(7200)
    response = await stub.Adapt(request, timeout=60)
    ledger.acknowledge(tasks[0], response)
    entry = ledger.known()[0]
    calls, room = Calls(tasks, entry.id), asyncio.Semaphore(_AT_ONCE)

    async def one(method: str, content: bytes) -> None:
        async with room:
            outcome, text = await _send(channel, method, content)
        outcomes[outcome] += 1
        outcomes["past parsing"] += not any(part in text for part in _UNPARSED)
        if outcome in _FORBIDDEN and _CLIENTS_OWN not in text:
            shown = content[:60].hex()
            faults.append(f"{method.rpartition('/')[2]} {shown}: {outcome}: {text[:120]}")

    for _ in range(0, count, _ASK_EVERY):
        await asyncio.gather(*(one(*calls.draw(chance)) for _ in range(_ASK_EVERY)))
        served.check()
        question = wire.PredictRequest(adapted_model=entry.id, queries=entry.task.queries[0])
        ledger.predicted(entry, 0, await stub.Predict(question, timeout=60), 0.0)
    faults += ledger.faults
    await channel.close()
    return outcomes


async def _send(channel: Any, method: str, content: bytes) -> tuple[str, str]:  # noqa: ANN401 -- a channel for bytes
    try:
        if method.endswith("Info"):
            stream = channel.stream_stream(method)(iter([content]), timeout=_SECONDS)
            async for _ in stream:
                pass
        elif method.endswith(("ExportAdaptedModel", "Watch")):
            seconds = 0.2 if method.endswith("Watch") else _SECONDS
            async for _ in channel.unary_stream(method)(content, timeout=seconds):
                pass
        else:
            await channel.unary_unary(method)(content, timeout=_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code().name, f"{reason_of(error)} {error.details()}"
    return "OK", ""
