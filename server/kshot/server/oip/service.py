"""`inference.GRPCInferenceService`: the Open Inference Protocol, thin over the front."""
# ruff: noqa: N802 -- methods are named as in the .proto

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from kshot.server.request.violations import Violations, shorten
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
        versions = [model]
        if adapted is None:
            name = model.bundle.manifest.name
            every = self._front.catalog.versions
            versions = [each for each in every if each.bundle.manifest.name == name]
        response = model_metadata(request.name, model, adapted)
        response.versions.extend(map(_version, versions))
        return response

    async def ModelInfer(
        self, request: wire.ModelInferRequest, _context: Context
    ) -> wire.ModelInferResponse:
        """Classify queries, or encode images."""
        response = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
        if self._adapted(request.model_name):
            await self._predict(request, response)
        else:
            await self._embed(request, response)
        if warnings := current_call().query_warnings:
            response.parameters["warnings"].string_param = "\n".join(warnings)
        return response

    async def _embed(
        self, request: wire.ModelInferRequest, response: wire.ModelInferResponse
    ) -> None:
        model = self._initialization(request.model_name, request.model_version)
        if model.encoder is None:
            raise AdaptFirst(model.bundle.manifest.name)
        response.model_version = _version(model)
        violations = Violations()
        check_request_id(request, violations)
        read_parameters(request, (), violations)
        read_outputs(request, (EMBEDDING,), (), violations)
        images = await self._images(request, [model], violations)
        with in_these_words():
            features = await embed(self._front, model, images, Violations())
        add_numbers(response, EMBEDDING, features)

    async def _predict(
        self, request: wire.ModelInferRequest, response: wire.ModelInferResponse
    ) -> None:
        front, violations = self._front, Violations()
        if request.model_version:
            adapted = await front.kept_models.get(request.model_name)
            _check_version(await self._answering(adapted), request.model_version, "model_version")
        check_request_id(request, violations)
        outputs = read_outputs(request, (PROBABILITIES, LABELS), (LOGITS,), violations)
        query = predict_input(request, outputs, violations)
        images = await self._images(request, front.catalog.versions, violations)
        query = replace(query, queries=images)
        with in_these_words():
            adapted, answers, model = await front.predict(request.model_name, query, violations)
        response.model_version = _version(model)
        response.parameters["batch_norm_mode"].string_param = answers.mode
        response.parameters["weights_digest"].string_param = adapted.weights_digest

        def add() -> None:
            add_predictions(response, outputs, answers, adapted.class_names, query)

        count = len(answers.logits) * max(1, min(query.top_k, len(adapted.class_names)))
        if count > _CLASSES_ON_LOOP:
            await front.workers.compute(add)
        else:
            add()

    async def _images(
        self, request: wire.ModelInferRequest, models: Sequence[ServedModel], violations: Violations
    ) -> Images:
        """Read the images of a request to one of the models; raise all violations.

        Typed contents are slow to read.
        """
        most = max(model.bundle.manifest.limits.max_query_count for model in models)

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
        """Return a model, and the record of an adapted one."""
        if not self._adapted(request.name):
            return self._initialization(request.name, request.version), None
        adapted = await self._front.kept_models.get(request.name)
        model = await self._answering(adapted)
        _check_version(model, request.version, "version")
        return model, adapted

    async def _answering(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the version that the next call gets: perhaps it adapts the model again."""
        front = self._front
        try:
            return await front.behind(adapted)
        except ModelChanged:
            if not adapted.options.readapt or adapted.model not in front.catalog:
                raise
            model = front.find_model(adapted.model)
            if front.readaptation.problem(adapted, model):
                raise
            return model

    def _adapted(self, name: str) -> bool:
        """Tell whether a name is an id."""
        return name not in self._front.catalog and check_id(name, Violations())

    def _initialization(self, name: str, version: str) -> ServedModel:
        """Return a served model by its name and the number or label of its version, if given."""
        model = self._front.find_model(f"{name}@{version}" if version else name)
        current_call().model = model.bundle.manifest.name
        return model


def _check_version(model: ServedModel, version: str, field: str) -> None:
    if version not in ("", _version(model)):
        raise InvalidRequest.about(
            field, f"expected {_version(model)} or none, got {shorten(version, 20)!r}"
        )


def _version(model: ServedModel) -> str:
    return str(model.bundle.manifest.version)
