"""A real gRPC server on loopback whose servicer is small and knows what it was asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from kshot.client import Client
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import admin_pb2 as admin
from kshot.v1.adaptation_pb2_grpc import (
    AdaptationServiceServicer,
    add_AdaptationServiceServicer_to_server,
)
from kshot.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server

EXPORTED = b"an ONNX file, as far as the client can tell" * 1000


@dataclass
class Refusal:
    """How to refuse the next calls: a status with details, so often; -1 is always."""

    code: int
    message: str
    details: list[Message]
    times: int = -1


KNOWN_SCORE = 0.25
ESTIMATE = wire.AccuracyEstimate(
    accuracy=0.5, low=0.25, high=0.75, example_count=4, confusion=[2, 0, 2, 0], cross_entropy=0.625
)


@dataclass
class FakeServicer(AdaptationServiceServicer):
    """Answers like a kshot server, but learns nothing: query i is of class i modulo way."""

    kept: dict[str, wire.AdaptedModel] = field(default_factory=dict)
    keeping: threading.Lock = field(default_factory=threading.Lock)
    requests: list[Message] = field(default_factory=list)
    request_ids: set[str] = field(default_factory=set)
    remaining: list[float] = field(default_factory=list)
    refusal: Refusal | None = None
    damage_export: bool = False
    useful_sides: dict[str, int] = field(default_factory=dict)
    warning: str = ""
    tail: wire.TailReport | None = None
    slow: bool = False
    max_predict_images: int = 0
    stalled: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    def refuse(self, code: int, message: str, *details: Message, times: int = -1) -> None:
        """Refuse the next calls with a status and its details; by default all of them."""
        self.refusal = Refusal(code, message, list(details), times)

    def _begin(self, request: Message, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.remaining.append(context.time_remaining())
        if self.slow:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait()
        refusal = self.refusal
        if refusal and refusal.times != 0:
            refusal.times -= 1
            refuse(context, refusal)

    def _keep(self, adapted: wire.AdaptedModel) -> None:
        """Keep a model by an id that none has: several calls adapt and delete at once."""
        with self.keeping:
            numbers = (int(name.removeprefix("am-")) for name in self.kept)
            adapted.id = f"am-{max(numbers, default=-1) + 1}"
            self.kept[adapted.id] = adapted

    def Adapt(  # noqa: N802 -- the service's own name
        self, request: wire.AdaptRequest, context: grpc.ServicerContext
    ) -> wire.AdaptResponse:
        self._begin(request, context)
        return self._adapt(request)

    def _adapt(self, request: wire.AdaptRequest) -> wire.AdaptResponse:
        model = request.model or "omniglot"
        adapted = _adapted(model, request.support_set)
        adapted.options.MergeFrom(request.options)
        self._keep(adapted)
        response = wire.AdaptResponse(adapted_model=adapted)
        response.deduplicated = request.request_id in self.request_ids
        self.request_ids.add(request.request_id)
        response.report.stop_reason = wire.STOP_REASON_COMPLETED
        response.report.support_loss.extend([1.5, 0.5])
        response.report.warnings.extend([self.warning] if self.warning else [])
        if self.tail is not None:
            response.report.tail.CopyFrom(self.tail)
        if not request.model:
            response.report.chosen_from.add(model="omniglot")
            response.report.chosen_from.add(model="photos", estimate=ESTIMATE)
        response.timing.compute.FromMilliseconds(12)
        return response

    def AdaptStream(  # noqa: N802 -- the service's own name
        self, request: wire.AdaptStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.AdaptStreamResponse]:
        """Tell of two steps; if `stalled`, wait between them until the caller leaves."""
        context.add_callback(self.left.set)
        self._begin(request.adapt, context)
        for count in (1, 2):
            event = wire.AdaptStreamResponse()
            event.progress.model = request.adapt.model
            event.progress.stage = wire.ADAPT_STAGE_ADAPTING
            event.progress.step_count, event.progress.total_step_count = count, 2
            event.progress.support_loss.append(1 / count)
            yield event
            if self.stalled:
                self.left.wait()
        yield wire.AdaptStreamResponse(result=self._adapt(request.adapt))

    def Predict(  # noqa: N802 -- the service's own name
        self, request: wire.PredictRequest, context: grpc.ServicerContext
    ) -> wire.PredictResponse:
        self._begin(request, context)
        adapted = self._find(request.adapted_model, context)
        response = wire.PredictResponse(
            adapted_model=adapted.id,
            weights_digest=adapted.weights_digest,
            class_names=adapted.class_names,
            batch_norm_mode=request.batch_norm_mode or wire.BATCH_NORM_MODE_SUPPORT,
        )
        response.probabilities.CopyFrom(_answer(request.queries, len(adapted.class_names)))
        for _ in range(response.probabilities.shape[0]):
            refused = request.reject_below > KNOWN_SCORE
            response.predictions.add(known_score=KNOWN_SCORE, none_of_these=refused)
        response.warnings.extend([self.warning] if self.warning else [])
        if request.return_logits:
            response.logits.CopyFrom(response.probabilities)
        response.timing.decode.FromMicroseconds(1500)
        return response

    def AdaptAndPredict(  # noqa: N802 -- the service's own name
        self, request: wire.AdaptAndPredictRequest, context: grpc.ServicerContext
    ) -> wire.AdaptAndPredictResponse:
        self._begin(request, context)
        adapted = _adapted(request.model, request.support_set)
        adapted.ClearField("expire_time")
        response = wire.AdaptAndPredictResponse(adapted_model=adapted)
        response.probabilities.CopyFrom(_answer(request.queries, len(adapted.class_names)))
        response.report.stop_reason = wire.STOP_REASON_TIME_BUDGET
        return response

    def GetAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.GetAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.GetAdaptedModelResponse:
        self._begin(request, context)
        adapted = self._find(request.adapted_model, context)
        return wire.GetAdaptedModelResponse(adapted_model=adapted)

    def ListAdaptedModels(  # noqa: N802 -- the service's own name
        self, request: wire.ListAdaptedModelsRequest, context: grpc.ServicerContext
    ) -> wire.ListAdaptedModelsResponse:
        """Give two on a page, whatever was asked for."""
        self._begin(request, context)
        first = int(request.page_token or 0)
        page = list(self.kept.values())[first : first + 2]
        following = str(first + 2) if first + 2 < len(self.kept) else ""
        return wire.ListAdaptedModelsResponse(adapted_models=page, next_page_token=following)

    def UpdateAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.UpdateAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.UpdateAdaptedModelResponse:
        """Give it an etag that counts changes."""
        self._begin(request, context)
        adapted = self._find(request.adapted_model, context)
        if request.etag not in ("", adapted.etag):
            info = ErrorInfo(reason="ETAG_MISMATCH", domain="kshot")
            refuse(context, Refusal(Code.ABORTED, "it was changed", [info]))
        adapted.etag += "x"
        if request.HasField("expire_time"):
            adapted.expire_time.CopyFrom(request.expire_time)
        else:
            adapted.expire_time.FromSeconds(request.ttl.seconds)
        return wire.UpdateAdaptedModelResponse(adapted_model=adapted)

    def ReviseAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.ReviseAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.ReviseAdaptedModelResponse:
        """Put new classes behind the old ones, and count examples."""
        self._begin(request, context)
        old = self._find(request.adapted_model, context)
        adapted = wire.AdaptedModel()
        adapted.CopyFrom(old)
        adapted.parent = old.id
        names = [*request.added.class_names, *(each.class_name for each in request.relabellings)]
        adapted.class_names.extend(dict.fromkeys(set(names) - set(old.class_names)))
        adapted.support_count += len(request.added.class_indices) - len(request.removed_indices)
        self._keep(adapted)
        response = wire.ReviseAdaptedModelResponse(adapted_model=adapted, deduplicated=True)
        response.report.stop_reason = wire.STOP_REASON_COMPLETED
        response.report.example_notes.add(
            index=adapted.support_count - 1, flaw=wire.EXAMPLE_FLAW_BLANK
        )
        response.report.example_notes.add(index=0, flaw=wire.EXAMPLE_FLAW_FAR)
        return response

    def ImportAdaptedModel(  # noqa: N802 -- the service's own name
        self,
        request_iterator: Iterator[wire.ImportAdaptedModelRequest],
        context: grpc.ServicerContext,
    ) -> wire.ImportAdaptedModelResponse:
        header, *chunks = request_iterator
        self._begin(header, context)
        content = b"".join(part.chunk for part in chunks)
        assert header.header.sha256 == hashlib.sha256(content).hexdigest()
        adapted = wire.AdaptedModel(class_names=["a", "b"])
        adapted.size_bytes = len(content)
        self._keep(adapted)
        return wire.ImportAdaptedModelResponse(adapted_model=adapted)

    def DeleteAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.DeleteAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.DeleteAdaptedModelResponse:
        self._begin(request, context)
        del self.kept[self._find(request.adapted_model, context).id]
        return wire.DeleteAdaptedModelResponse(adapted_model=request.adapted_model)

    def ExportAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.ExportAdaptedModelRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ExportAdaptedModelResponse]:
        self._begin(request, context)
        header = wire.ExportHeader(
            adapted_model=self._find(request.adapted_model, context),
            size_bytes=len(EXPORTED),
            sha256=hashlib.sha256(EXPORTED).hexdigest(),
        )
        yield wire.ExportAdaptedModelResponse(header=header)
        sent = EXPORTED[:-1] if self.damage_export else EXPORTED
        for first in range(0, len(sent), 10_000):
            yield wire.ExportAdaptedModelResponse(chunk=sent[first : first + 10_000])

    def GetCapabilities(  # noqa: N802 -- the service's own name
        self, request: wire.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> wire.GetCapabilitiesResponse:
        self._begin(request, context)
        response = wire.GetCapabilitiesResponse(server_version="1.2.3")
        response.models.add(
            model="omniglot",
            input_shape=[1, 28, 28],
            heads=[wire.HEAD_TRAINED],
            max_way=64,
            calibrated_batch_norm_modes=[wire.BATCH_NORM_MODE_SUPPORT],
            max_useful_side=self.useful_sides.get("omniglot", 0),
            version=2,
            labels=["stable"],
        )
        for name, side in self.useful_sides.items():
            if name != "omniglot":
                response.models.add(model=name, max_useful_side=side)
        response.limits.default_ttl.FromSeconds(3600)
        response.limits.max_predict_image_count = self.max_predict_images
        response.limits.request_id_ttl.FromSeconds(600)
        response.limits.tenant, response.limits.tenant_call_count = "acme", 8
        return response

    def _find(self, name: str, context: grpc.ServicerContext) -> wire.AdaptedModel:
        if name not in self.kept:
            info = ErrorInfo(reason="ADAPTED_MODEL_NOT_FOUND", domain="kshot")
            refuse(context, Refusal(Code.NOT_FOUND, f"there is no {name!r}", [info]))
        return self.kept[name]


class FakeAdmin(AdminServiceServicer):
    """Serves one bundle, and has finished two calls."""

    def ReloadBundles(  # noqa: N802 -- the service's own name
        self,
        request: admin.ReloadBundlesRequest,  # noqa: ARG002 -- gRPC's signature
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> admin.ReloadBundlesResponse:
        response = admin.ReloadBundlesResponse()
        response.bundles.add(
            model="omniglot", version=2, bundle_digest="ab" * 32, labels=["stable"], loaded=True
        )
        return response

    def GetStatistics(  # noqa: N802 -- the service's own name
        self,
        request: admin.GetStatisticsRequest,  # noqa: ARG002 -- gRPC's signature
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> admin.GetStatisticsResponse:
        response = admin.GetStatisticsResponse(adapted_model_count=3, engine_count=1)
        response.start_time.FromJsonString("2026-12-01T10:00:00Z")
        finished = response.methods.add(method="Adapt", code="OK", call_count=2)
        finished.total.FromMilliseconds(1500)
        response.tenants.add(tenant="acme", call_count=2, adapt_seconds=0.5)
        return response


def refuse(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """End a call with a status and its details."""
    status = Status(code=refusal.code, message=refusal.message)
    for detail in refusal.details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    sent = rpc_status.to_status(status)
    trailers = (*sent.trailing_metadata, ("x-kshot-request-id", "r-1"))
    context.abort_with_status(sent._replace(trailing_metadata=trailers))


def _adapted(model: str, support: wire.SupportSet) -> wire.AdaptedModel:
    adapted = wire.AdaptedModel(
        model=model,
        weights_digest="ab" * 32,
        class_names=support.class_names,
        step_count=10,
        support_accuracy=0.75,
        size_bytes=4096,
        etag="e",
        support_digest="cd" * 32,
        support_count=len(support.class_indices),
        support_kept=True,
        model_version=2,
        library_versions={"torch": "2.13"},
    )
    adapted.expire_time.FromJsonString("2026-12-01T10:00:00Z")
    return adapted


def _answer(queries: wire.Images, way: int) -> wire.Tensor:
    """Give query i 3/4 for class i modulo way, and the rest to the others."""
    tensor = queries.tensor
    count = tensor.shape[0] if tensor.shape else len(queries.encoded.items)
    probabilities = np.full((count, way), 0.25 / (way - 1), "<f4")
    probabilities[np.arange(count), np.arange(count) % way] = 0.75
    return wire.Tensor(datatype="FP32", shape=probabilities.shape, data=probabilities.tobytes())


@pytest.fixture
def servicer() -> FakeServicer:
    """The servicer behind `address`."""
    return FakeServicer()


@contextmanager
def listening(servicer: FakeServicer, port: int = 0) -> Iterator[str]:
    """Run a server with a servicer and give its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_AdaptationServiceServicer_to_server(servicer, server)
    add_AdminServiceServicer_to_server(FakeAdmin(), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield f"127.0.0.1:{bound}"
    server.stop(None).wait()


@pytest.fixture
def address(servicer: FakeServicer) -> Iterator[str]:
    """The address of a running server."""
    with listening(servicer) as address:
        yield address


@pytest.fixture
def listen(servicer: FakeServicer) -> Callable[[int], AbstractContextManager[str]]:
    """Run another server, on a port that the test chooses."""
    return partial(listening, servicer)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of the running server."""
    with Client(address, timeout=10) as opened:
        yield opened
