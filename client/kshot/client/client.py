"""The client: one method for each call of the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from kshot.client.adapted_model import AdaptedModel, own_labels
from kshot.client.capabilities import Capabilities, UsefulSides, decode_capabilities
from kshot.client.channel import Patience, check_timeout, open_channel
from kshot.client.encoding import (
    decode_description,
    decode_prediction,
    decode_report,
    decode_timing,
    encode_images,
    encode_support,
    message,
)
from kshot.client.errors import InputError
from kshot.client.export import write_export
from kshot.client.inputs import Images, Label
from kshot.client.options import AdaptOptions, encode_choice, encode_options, seconds
from kshot.client.results import Prediction
from kshot.client.shrinking import any_large
from kshot.client.status import error_from
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

DEFAULT_TIMEOUT_S = 30.0
_PAGE_SIZE = 100  # the server's maximum
_MOST_KNOWN = 1000  # adapted models
_Response = TypeVar("_Response", bound=Message)
_Labels = Sequence[Label] | npt.NDArray[np.generic]


class Client:
    """A connection to a kshot server at HOST:PORT; a context manager, safe to share by threads.

    Every call has a deadline: `timeout` seconds, unless the call names its own; one with a
    `time_budget` has so much more. Calls raise `kshot.client.KshotError`; its subclasses tell what
    a caller can do.
    """

    def __init__(self, address: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = address
        self.timeout = check_timeout(timeout)
        self._channel = open_channel(address)
        self._stub = AdaptationServiceStub(self._channel)
        self._useful_sides = UsefulSides()
        self._models: dict[str, str] = {}  # that models were adapted from, by id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def adapt(
        self,
        images: Images,
        labels: _Labels,
        *,
        model: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptedModel:
        """Adapt `model` to labelled images and return a handle on the adapted model.

        Without a `model` the server takes the one that suits the images best.

        Images are uint8 (n, height, width[, channels]), prepared float32 (n, channels, height,
        width), float32 vectors (n, features), paths, bytes of encoded images, or pictures of
        Pillow; labels are n strings or n ints. Images that are larger than the model can use are
        reduced by area before they are sent.
        """
        settings = encode_options(options)
        patience = self._patience(timeout, settings)
        side = self._useful_side(images, lambda: model, patience)
        support, classes = encode_support(images, labels, side)
        request = message(
            wire.AdaptRequest,
            model=model or "",
            support_set=support,
            options=settings,
        )
        response, round_trip_ms = self._call(self._stub.Adapt, request, patience)
        return AdaptedModel(
            self,
            decode_description(response.adapted_model),
            classes.labels,
            decode_report(response.report, response.adapted_model.class_names),
            decode_timing(response.timing, round_trip_ms),
        )

    def predict(
        self,
        adapted_model: AdaptedModel | str,
        queries: Images,
        *,
        batch_norm_mode: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify queries with an adapted model, given as a handle or by its id.

        Those whose known score is below `reject_below` are marked in `none_of_these`.
        """
        labels, patience = own_labels(adapted_model), self._patience(timeout)

        def adapted_from() -> str:
            if isinstance(adapted_model, str):
                return self._adapted_from(adapted_model, patience)
            return adapted_model.description.model

        side = self._useful_side(queries, adapted_from, patience)
        request = message(
            wire.PredictRequest,
            adapted_model=adapted_model if isinstance(adapted_model, str) else adapted_model.id,
            queries=encode_images(queries, side),
            return_logits=return_logits,
            reject_below=reject_below,
        )
        if batch_norm_mode is not None:
            request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
        response, round_trip_ms = self._call(self._stub.Predict, request, patience)
        return decode_prediction(response, labels, round_trip_ms)

    def adapt_and_predict(
        self,
        images: Images,
        labels: _Labels,
        queries: Images,
        *,
        model: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> Prediction:
        """Adapt, classify queries and keep nothing, in one call."""
        settings = encode_options(options)
        patience = self._patience(timeout, settings)
        side = self._useful_side([*images, *queries], lambda: model, patience)
        support, classes = encode_support(images, labels, side)
        request = message(
            wire.AdaptAndPredictRequest,
            model=model or "",
            support_set=support,
            options=settings,
            queries=encode_images(queries, side),
            return_logits=return_logits,
            reject_below=reject_below,
        )
        response, round_trip_ms = self._call(self._stub.AdaptAndPredict, request, patience)
        return decode_prediction(response, classes.labels, round_trip_ms)

    def get(self, adapted_model: str) -> AdaptedModel:
        """Return a handle on the adapted model with this id."""
        request = message(wire.GetAdaptedModelRequest, adapted_model=adapted_model)
        response, _ = self._call(self._stub.GetAdaptedModel, request)
        return AdaptedModel(self, decode_description(response.adapted_model))

    def list(self, *, model: str = "") -> Iterator[AdaptedModel]:
        """Yield the adapted models that the server keeps, page by page; only those of `model`."""
        request = message(wire.ListAdaptedModelsRequest, page_size=_PAGE_SIZE, model=model)
        while True:
            response, _ = self._call(self._stub.ListAdaptedModels, request)
            for adapted in response.adapted_models:
                yield AdaptedModel(self, decode_description(adapted))
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def delete(self, adapted_model: str) -> None:
        """Delete the adapted model with this id."""
        request = message(wire.DeleteAdaptedModelRequest, adapted_model=adapted_model)
        self._call(self._stub.DeleteAdaptedModel, request)

    def export(
        self, adapted_model: str, path: str | Path, *, batch_norm_mode: str | None = None
    ) -> Path:
        """Write an adapted model as a self-contained ONNX file, whole or not at all."""
        request = message(wire.ExportAdaptedModelRequest, adapted_model=adapted_model)
        if batch_norm_mode is not None:
            request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
        return write_export(self._export_parts(request), Path(path))

    def _export_parts(
        self, request: wire.ExportAdaptedModelRequest
    ) -> Iterator[wire.ExportAdaptedModelResponse]:
        """Ask for an export when its first part is wanted; the call ends with the iterator."""
        try:
            call = self._stub.ExportAdaptedModel(request, timeout=self.timeout)
            try:
                yield from call
            finally:
                call.cancel()
        except grpc.RpcError as error:
            raise error_from(error, self.address, self.timeout) from error
        except ValueError as error:  # gRPC's error for a closed channel
            raise InputError(f"cannot call {self.address}: {error}") from error

    def capabilities(self) -> Capabilities:
        """Return the served models, their options and limits, and the server's own limits."""
        return self._capabilities(self._patience())

    def _capabilities(self, patience: Patience) -> Capabilities:
        request = wire.GetCapabilitiesRequest()
        response, _ = self._call(self._stub.GetCapabilities, request, patience)
        return decode_capabilities(response)

    def _useful_side(
        self,
        images: npt.NDArray[np.generic] | Sequence[object],
        model: Callable[[], str | None],
        patience: Patience,
    ) -> int:
        """Return the bound on the shorter side of images, 0 where they are sent as they are.

        The server is asked only about large images, now and then, within the call's own time.
        """
        if not any_large(images):
            return 0
        return self._useful_sides.of(model(), lambda: self._capabilities(patience))

    def _adapted_from(self, adapted_model: str, patience: Patience) -> str:
        """Return the model behind an adapted one; the server is asked once."""
        model = self._models.get(adapted_model)  # another thread may clear them at any time
        if model is None:
            request = message(wire.GetAdaptedModelRequest, adapted_model=adapted_model)
            response, _ = self._call(self._stub.GetAdaptedModel, request, patience)
            model = response.adapted_model.model
            if len(self._models) >= _MOST_KNOWN:
                self._models.clear()
            self._models[adapted_model] = model
        return model

    def _patience(
        self, timeout: float | None = None, options: wire.AdaptOptions | None = None
    ) -> Patience:
        if timeout is not None:
            return Patience.of(timeout)
        computing = 0.0 if options is None else seconds(options.time_budget)
        return Patience.of(self.timeout + max(0.0, computing))

    def _call(
        self,
        method: Callable[..., _Response],
        request: Message,
        patience: Patience | None = None,
    ) -> tuple[_Response, float]:
        """Make one unary call; return its response and its time in milliseconds."""
        patience = patience or self._patience()
        started = time.perf_counter()
        try:
            response = method(request, timeout=patience.left)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._useful_sides.forget()
            raise error_from(error, self.address, patience.timeout) from error
        except ValueError as error:  # gRPC's error for a closed channel
            raise InputError(f"cannot call {self.address}: {error}") from error
        took = time.perf_counter() - started
        patience.spend(took)
        return response, 1e3 * took
