"""`inference.GRPCInferenceService`: the Open Inference Protocol, thin over the front."""
# ruff: noqa: N802 -- methods are named as in the .proto

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc

from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.oip.v2 import grpc_service_pb2_grpc as wire_grpc
from kshot.server.call_context import current_call
from kshot.server.errors import (
    AdaptedModelNotFound,
    AdaptFirst,
    InvalidRequest,
    ModelChanged,
    ModelNotFound,
)
from kshot.server.front import Front
from kshot.server.oip.contents import read_images
from kshot.server.oip.decode import (
    EMBEDDING,
    LABELS,
    LOGITS,
    PROBABILITIES,
    check_request_id,
    in_these_words,
    predict_input,
    read_outputs,
    read_parameters,
)
from kshot.server.oip.embedding import embed
from kshot.server.oip.encode import add_numbers, add_predictions
from kshot.server.oip.metadata import model_metadata
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.inputs import Images
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.watch.version import server_version
from kshot.v1 import adaptation_pb2

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = wire.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_NAME = "kshot"
# Naming this many classes takes under a millisecond.
_CLASSES_ON_LOOP = 2000


class InferenceServicer(wire_grpc.GRPCInferenceServiceServicer):
    """The service; `serving` tells what the health service does."""

    def __init__(self, front: Front, serving: Callable[[], bool]) -> None:
        self._front = front
        self._serving = serving

    async def ServerLive(
        self, _request: wire.ServerLiveRequest, _context: Context
    ) -> wire.ServerLiveResponse:
        """Tell that the server runs."""
        return wire.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _request: wire.ServerReadyRequest, _context: Context
    ) -> wire.ServerReadyResponse:
        """Tell whether the server serves."""
        return wire.ServerReadyResponse(ready=self._serving())

    async def ServerMetadata(
        self, _request: wire.ServerMetadataRequest, _context: Context
    ) -> wire.ServerMetadataResponse:
        """Describe the server."""
        services = adaptation_pb2.DESCRIPTOR.services_by_name.values()
        extensions = [service.full_name for service in services]
        return wire.ServerMetadataResponse(
            name=_NAME, version=server_version(), extensions=extensions
        )

    async def ModelReady(
        self, request: wire.ModelReadyRequest, _context: Context
    ) -> wire.ModelReadyResponse:
        """Tell whether a model can answer now."""
        try:
            await self._describe(request)
        except (ModelNotFound, AdaptedModelNotFound, ModelChanged, InvalidRequest):
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=self._serving())

    async def ModelMetadata(
        self, request: wire.ModelMetadataRequest, _context: Context
    ) -> wire.ModelMetadataResponse:
        """Describe a model."""
        model, adapted = await self._describe(request)
        return model_metadata(request.name, model, adapted)

    async def ModelInfer(
        self, request: wire.ModelInferRequest, _context: Context
    ) -> wire.ModelInferResponse:
        """Classify queries, or encode images."""
        name, kept = request.model_name, self._front.kept_models

        async def read() -> AdaptedModelRecord:
            return (await kept.read(name))[0]

        model, adapted = await self._find(name, read, request.model_version, "model_version")
        response = wire.ModelInferResponse(
            model_name=name,
            model_version=str(model.bundle.manifest.version),
            id=request.id,
        )
        if adapted is None:
            await self._embed(request, model, response)
        else:
            await self._predict(request, model, response)
        if warnings := current_call().query_warnings:
            response.parameters["warnings"].string_param = "\n".join(warnings)
        return response

    async def _embed(
        self, request: wire.ModelInferRequest, model: ServedModel, response: wire.ModelInferResponse
    ) -> None:
        if model.encoder is None:
            raise AdaptFirst(model.bundle.manifest.name)
        violations = Violations()
        check_request_id(request, violations)
        read_parameters(request, (), violations)
        read_outputs(request, (EMBEDDING,), (), violations)
        images = await self._images(request, model, violations)
        with in_these_words():
            features = await embed(self._front, model, images, Violations())
        add_numbers(response, EMBEDDING, features)

    async def _predict(
        self, request: wire.ModelInferRequest, model: ServedModel, response: wire.ModelInferResponse
    ) -> None:
        violations = Violations()
        check_request_id(request, violations)
        outputs = read_outputs(request, (PROBABILITIES, LABELS), (LOGITS,), violations)
        query = predict_input(request, outputs, violations)
        query = replace(query, queries=await self._images(request, model, violations))
        with in_these_words():
            adapted, answers = await self._front.predict(request.model_name, query, violations)
        response.parameters["batch_norm_mode"].string_param = answers.mode
        response.parameters["weights_digest"].string_param = adapted.weights_digest

        def add() -> None:
            add_predictions(response, outputs, answers, adapted.class_names, query)

        count = len(answers.logits) * max(1, min(query.top_k, len(adapted.class_names)))
        if count > _CLASSES_ON_LOOP:
            await self._front.workers.compute(add)
        else:
            add()

    async def _images(
        self, request: wire.ModelInferRequest, model: ServedModel, violations: Violations
    ) -> Images:
        """Read the images of a request; raise all violations. Typed contents are slow to read."""
        most = model.bundle.manifest.limits.max_query_count

        def read() -> Images | None:
            with current_call().measure("decode"):
                return read_images(request, most, violations)

        images = read() if request.raw_input_contents else await self._front.workers.compute(read)
        violations.check()
        assert images is not None  # noqa: S101 -- there would be violations
        return images

    async def _describe(
        self, request: wire.ModelReadyRequest | wire.ModelMetadataRequest
    ) -> tuple[ServedModel, AdaptedModelRecord | None]:
        kept = self._front.kept_models
        return await self._find(
            request.name, lambda: kept.get(request.name), request.version, "version"
        )

    async def _find(
        self, name: str, read: Callable[[], Awaitable[AdaptedModelRecord]], version: str, field: str
    ) -> tuple[ServedModel, AdaptedModelRecord | None]:
        """Return a model, and the record of an adapted one, which `read` gives.

        `field` is that of the version.
        """
        front, adapted = self._front, None
        if name not in front.catalog and check_id(name, Violations()):
            adapted = await read()
            current_call().adapted_model = adapted.id
        model = front.find_model(name) if adapted is None else front.catalog.behind(adapted)
        manifest = model.bundle.manifest
        current_call().model = manifest.name
        if version not in ("", str(manifest.version)):
            problem = f"expected {manifest.version} or none, got {version[:20]!r}"
            raise InvalidRequest.about(field, problem)
        return model, adapted
