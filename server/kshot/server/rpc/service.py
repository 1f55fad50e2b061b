"""`kshot.v1.AdaptationService`: decode, call, encode; the interceptor answers what is raised."""
# ruff: noqa: N802 -- methods are named as in the .proto

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from kshot.server.call_context import current_call, current_tenant
from kshot.server.front import Front
from kshot.server.predict.prediction import Answers
from kshot.server.progress import Progress
from kshot.server.request.inputs import PredictInput
from kshot.server.request.violations import Violations
from kshot.server.rpc.capabilities import capabilities_message
from kshot.server.rpc.decode import (
    adapt_input,
    batch_norm_mode,
    predict_input,
    renewal,
    revision_input,
)
from kshot.server.rpc.encode import (
    Response,
    adapted_model_message,
    add_predictions,
    choice_value,
    many_predictions,
    report_message,
    tensor_message,
    timing_message,
)
from kshot.server.rpc.progress_messages import progress_interval, told
from kshot.server.rpc.request_ids import RequestIds
from kshot.server.rpc.uploads import read_chunks, read_header
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import adaptation_pb2_grpc as wire_grpc

Context = grpc.aio.ServicerContext[Any, Any]

CHUNK_BYTES = 1_000_000
# Naming this many classes takes under a millisecond.
_CLASSES_ON_LOOP = 200


class AdaptationServicer(wire_grpc.AdaptationServiceServicer):
    """The service, thin over the front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        ttl = front.config.request_id_ttl
        self._request_ids = RequestIds(front.kept_models, front.workers, ttl)

    async def Adapt(self, request: wire.AdaptRequest, _context: Context) -> wire.AdaptResponse:
        """Adapt and store the adapted model."""
        violations = Violations()
        task = adapt_input(request, violations)
        adapt = partial(self._front.adapt, task, violations)
        return await self._request_ids.answer(request, wire.AdaptResponse, violations, adapt)

    async def AdaptStream(
        self, request: wire.AdaptStreamRequest, context: Context
    ) -> AsyncIterator[wire.AdaptStreamResponse]:
        """Adapt as `Adapt` does, and tell how far it is."""
        progress = Progress(progress_interval(request))
        current_call().progress = progress
        async with aclosing(told(progress, self.Adapt(request.adapt, context))) as responses:
            async for response in responses:
                yield response

    async def Predict(self, request: wire.PredictRequest, _context: Context) -> Any:  # noqa: ANN401 -- a response, or its bytes
        """Classify queries."""
        violations = Violations()
        task = predict_input(request, violations)
        adapted, answers, _ = await self._front.predict(request.adapted_model, task, violations)
        response = wire.PredictResponse(
            probabilities=tensor_message(answers.probabilities),
            logits=_logits(answers, task.return_logits),
            adapted_model=adapted.id,
            weights_digest=adapted.weights_digest,
            class_names=adapted.class_names,
            batch_norm_mode=choice_value(answers.mode),
            warnings=current_call().query_warnings,
        )
        return await self._with_predictions(response, answers, adapted.class_names, task)

    async def AdaptAndPredict(self, request: wire.AdaptAndPredictRequest, _context: Context) -> Any:  # noqa: ANN401 -- a response, or its bytes
        """Adapt, classify, store nothing."""
        violations = Violations()
        task = adapt_input(request, violations)
        query = predict_input(request, violations)
        adaptation, answers = await self._front.adapt_and_predict(task, query, violations)
        class_names = task.support_set.class_names
        response = wire.AdaptAndPredictResponse(
            probabilities=tensor_message(answers.probabilities),
            logits=_logits(answers, query.return_logits),
            adapted_model=adapted_model_message(adaptation.model),
            report=report_message(adaptation),
            batch_norm_mode=choice_value(answers.mode),
            warnings=current_call().query_warnings,
        )
        return await self._with_predictions(response, answers, class_names, query)

    async def GetAdaptedModel(
        self, request: wire.GetAdaptedModelRequest, _context: Context
    ) -> wire.GetAdaptedModelResponse:
        """Describe one adapted model."""
        adapted = await self._front.kept_models.get(request.adapted_model)
        current_call().adapted_model = adapted.id
        return wire.GetAdaptedModelResponse(adapted_model=adapted_model_message(adapted))

    async def ListAdaptedModels(
        self, request: wire.ListAdaptedModelsRequest, _context: Context
    ) -> wire.ListAdaptedModelsResponse:
        """Describe a page of adapted models."""
        page, token = await self._front.page(
            request.page_size, request.page_token, request.model, request.filter
        )
        return wire.ListAdaptedModelsResponse(
            adapted_models=map(adapted_model_message, page), next_page_token=token
        )

    async def ReviseAdaptedModel(
        self, request: wire.ReviseAdaptedModelRequest, _context: Context
    ) -> wire.ReviseAdaptedModelResponse:
        """Adapt anew to a changed support set, and store the result beside the old model."""
        violations = Violations()
        revise = partial(self._front.revise, revision_input(request, violations), violations)
        kind = wire.ReviseAdaptedModelResponse
        return await self._request_ids.answer(request, kind, violations, revise)

    async def UpdateAdaptedModel(
        self, request: wire.UpdateAdaptedModelRequest, _context: Context
    ) -> wire.UpdateAdaptedModelResponse:
        """Change when one adapted model expires."""
        front = self._front
        adapted = await front.kept_models.renew(
            request.adapted_model, renewal(request), front.config.max_ttl
        )
        current_call().adapted_model = adapted.id
        return wire.UpdateAdaptedModelResponse(adapted_model=adapted_model_message(adapted))

    async def DeleteAdaptedModel(
        self, request: wire.DeleteAdaptedModelRequest, _context: Context
    ) -> wire.DeleteAdaptedModelResponse:
        """Forget one adapted model."""
        current_call().adapted_model = request.adapted_model
        await self._front.delete(request.adapted_model)
        return wire.DeleteAdaptedModelResponse(adapted_model=request.adapted_model)

    async def ExportAdaptedModel(
        self, request: wire.ExportAdaptedModelRequest, _context: Context
    ) -> AsyncIterator[wire.ExportAdaptedModelResponse]:
        """Send one adapted model as a file."""
        violations = Violations()
        mode = batch_norm_mode(request.batch_norm_mode, "batch_norm_mode", violations)
        adapted, mode, content = await self._front.export(request.adapted_model, mode, violations)
        yield wire.ExportAdaptedModelResponse(
            header=wire.ExportHeader(
                adapted_model=adapted_model_message(adapted),
                batch_norm_mode=choice_value(mode),
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        for start in range(0, len(content), CHUNK_BYTES):
            yield wire.ExportAdaptedModelResponse(chunk=content[start : start + CHUNK_BYTES])

    async def ImportAdaptedModel(
        self, requests: AsyncIterator[wire.ImportAdaptedModelRequest], _context: Context
    ) -> wire.ImportAdaptedModelResponse:
        """Keep the adapted model in a file that was exported."""
        header = await read_header(requests)
        adapted = await self._front.import_model(header, read_chunks(requests))
        return wire.ImportAdaptedModelResponse(adapted_model=adapted_model_message(adapted))

    async def GetCapabilities(
        self, _request: wire.GetCapabilitiesRequest, _context: Context
    ) -> wire.GetCapabilitiesResponse:
        """Describe the server."""
        front = self._front
        tenant = current_tenant(), front.quotas.limits
        return capabilities_message(front.named_models, front.config, front.engine.facts, tenant)

    async def _with_predictions(
        self, response: Response, answers: Answers, class_names: Sequence[str], query: PredictInput
    ) -> Response | bytes:
        """Add predictions and timing to a response; if they are many, off the event loop.

        Then the response is bytes: parts of a message, one after another, are a message.
        """
        call = current_call()
        if len(answers.logits) * max(1, min(query.top_k, len(class_names))) <= _CLASSES_ON_LOOP:
            add_predictions(response, answers, class_names, query)
            response.timing.CopyFrom(timing_message(call))
            return response

        def make() -> bytes:
            parts: list[bytes] = []
            for part in many_predictions(answers, class_names, query):
                call.check()
                parts.append(part)
            response.timing.CopyFrom(timing_message(call))
            return b"".join([*parts, response.SerializeToString()])

        return await self._front.workers.compute(make)


def _logits(answers: Answers, wanted: bool) -> wire.Tensor | None:
    return tensor_message(answers.logits) if wanted else None
