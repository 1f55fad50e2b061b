"""The client: one method for each call of the service."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar, Unpack

from google.protobuf.message import Message

from kshot.client.adapt_run import AdaptRun
from kshot.client.adapted_model import AdaptedModel, check_id, known_labels, own_labels
from kshot.client.capabilities import Capabilities, UsefulSides, decode_capabilities
from kshot.client.connection.channel import Patience, check_timeout
from kshot.client.connection.connection import Connection, Names
from kshot.client.connection.credentials import PathLike, Requested
from kshot.client.encoding import (
    decode_answer,
    decode_description,
    decode_prediction,
    decode_timing,
    encode_images,
    encode_renewal,
    encode_support,
    query_names,
    support_names,
)
from kshot.client.errors import UnavailableError
from kshot.client.export import TellBytes, read_import, write_export
from kshot.client.inputs import Gathered, Images, gather
from kshot.client.labels import Classes, Label, Labels
from kshot.client.options import AdaptOptions, encode_choice, encode_options, seconds, set_duration
from kshot.client.results import Prediction
from kshot.client.revision import check_kinds, read_revision, revised_labels
from kshot.client.shrinking import any_large
from kshot.client.values import (
    check_flag,
    check_number,
    check_path,
    check_request_id,
    check_text,
)
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

if TYPE_CHECKING:
    from kshot.client.private_server import PrivateServer

DEFAULT_TIMEOUT_S = 30.0
_PAGE_SIZE = 100  # the server's maximum
_MOST_KNOWN = 1000  # adapted models
_Response = TypeVar("_Response", bound=Message)


class Client:
    """A connection to a kshot server at HOST:PORT; a context manager, safe to share by threads.

    It belongs to the process that made it: a child makes its own.

    `tls` encrypts and checks the server's certificate, by the machine's authorities or those of the
    file `ca`; `cert` is a pair of files, the client's own certificate and its private key. Both
    imply `tls`. `api_key` is a key, or a path-like object: the file with the key; over plain text
    it goes to this machine alone. What is left out comes from the environment: `KSHOT_TLS`,
    `KSHOT_CA`, `KSHOT_CERT` and `KSHOT_CERT_KEY`, `KSHOT_API_KEY` or `KSHOT_API_KEY_FILE`.

    Every call has a deadline: `timeout` seconds, unless the call names its own; one with a
    `time_budget` has so much more. Calls raise `kshot.client.KshotError`; its subclasses tell what
    a caller can do.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool | None = None,
        ca: PathLike | None = None,
        cert: tuple[PathLike, PathLike] | None = None,
        api_key: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._connection = Connection(address, Requested(tls, ca, cert, api_key), timeout)
        self._useful_sides = UsefulSides()
        self._models: dict[str, str] = {}  # that models were adapted from, by id
        self._server: PrivateServer | None = None

    @classmethod
    def local(
        cls,
        *,
        bundles: Sequence[str | os.PathLike[str]] = (),
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Start a server for this process alone, and return its client.

        It takes seconds to start, serves `bundles` as `kshot serve --bundle` does, and keeps models
        in a temporary store. It ends with the last of its clients, which share it, and at the
        latest with this process. Raises `InputError` where the extras of a server are not
        installed, `UnavailableError` where it does not start.
        """
        from kshot.client.private_server import private_server  # most clients have no such server

        check_timeout(timeout)
        server = private_server(bundles)
        try:
            client = cls(server.address, tls=False, api_key=server.api_key, timeout=timeout)
        except BaseException:
            server.release()
            raise
        client._server = server
        return client

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self._connection.address

    @property
    def usable(self) -> bool:
        """Tell whether calls can be made: not once a local server has ended."""
        return self._server is None or self._server.alive

    @property
    def timeout(self) -> float:
        """Seconds that a call may take unless it names its own."""
        return self._connection.timeout

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
        """Close the connection; calls under way are cancelled. A child leaves it to its parent."""
        self._connection.close()
        server, self._server = self._server, None
        if server is not None:
            server.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Client can be neither copied nor pickled: make one where it is needed, "
            f"Client({self.address!r})"
        )

    def adapt(
        self,
        images: Images,
        labels: Labels,
        *,
        model: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptedModel:
        """Adapt `model` to labelled images and return a handle on the adapted model.

        Without a `model` the server takes the one that suits the images best. A second request with
        the same `request_id`, a UUID, gets the answer of the first; without one each call has its
        own, so that it may be tried again where the server cannot be reached.

        Images are uint8 (n, height, width[, channels]), prepared float32 (n, channels, height,
        width), float32 vectors (n, features), tensors of PyTorch, paths, bytes of encoded
        images, or pictures of Pillow; labels are n strings or n ints. Images that are larger than
        the model can use are reduced by area before they are sent.
        """
        request, classes, patience, names = self._adapt_request(
            (images, labels), model, request_id, timeout, options
        )
        response, round_trip_ms = self._call(self._stub.Adapt, request, patience, names)
        return self._adapted(response, classes, round_trip_ms)

    def adapt_stream(
        self,
        images: Images,
        labels: Labels,
        *,
        model: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptRun:
        """Adapt as `adapt` does, and tell of it: iterate over the run, then ask for its `result`.

        `with client.adapt_stream(…) as run` cancels the adaptation if the block is left before.
        The server hears of it with the first progress that is asked for.
        """
        request, classes, patience, names = self._adapt_request(
            (images, labels), model, request_id, timeout, options
        )
        self._connection.check_process()
        began = time.perf_counter()
        return AdaptRun(
            self._connection.stream(
                self._stub.AdaptStream, wire.AdaptStreamRequest(adapt=request), patience, names
            ),
            lambda response: self._adapted(response, classes, 1e3 * (time.perf_counter() - began)),
        )

    def _adapt_request(
        self,
        examples: tuple[Images, Labels],
        model: str | None,
        request_id: str | None,
        timeout: float | None,
        options: AdaptOptions,
    ) -> tuple[wire.AdaptRequest, Classes, Patience, Names]:
        """Return the request to adapt, its classes, its time, and the caller's names of parts."""
        settings = encode_options(options)
        patience = self._patience(timeout, settings)
        name, items = _model_name(model), gather(examples[0], "images")
        side = self._useful_side([items], lambda: name, patience)
        support, classes = encode_support(items, examples[1], side)
        request = wire.AdaptRequest(
            model=name or "",
            support_set=support,
            options=settings,
            request_id=check_request_id(request_id),
        )
        return request, classes, patience, support_names(items, classes)

    def _adapted(
        self, response: wire.AdaptResponse, classes: Classes, round_trip_ms: float
    ) -> AdaptedModel:
        return AdaptedModel(
            self,
            decode_description(response.adapted_model),
            classes.labels,
            decode_answer(response),
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
        name, labels = check_id(adapted_model), own_labels(adapted_model)
        patience, items = self._patience(timeout), gather(queries, "queries")
        side = self._useful_side(
            [items], lambda: self._adapted_from(adapted_model, patience), patience
        )
        request = wire.PredictRequest(
            adapted_model=name,
            queries=encode_images(items, side, "queries"),
            return_logits=check_flag("return_logits", return_logits),
            reject_below=_bound(reject_below),
            omit_class_names=True,
        )
        if batch_norm_mode is not None:
            request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
        response, round_trip_ms = self._call(
            self._stub.Predict, request, patience, query_names(items)
        )
        return decode_prediction(response, labels, round_trip_ms)

    def adapt_and_predict(
        self,
        images: Images,
        labels: Labels,
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
        name = _model_name(model)
        items, asked = gather(images, "images"), gather(queries, "queries")
        side = self._useful_side([items, asked], lambda: name, patience)
        support, classes = encode_support(items, labels, side)
        request = wire.AdaptAndPredictRequest(
            model=name or "",
            support_set=support,
            options=settings,
            queries=encode_images(asked, side, "queries"),
            return_logits=check_flag("return_logits", return_logits),
            reject_below=_bound(reject_below),
            omit_class_names=True,
        )
        response, round_trip_ms = self._call(
            self._stub.AdaptAndPredict,
            request,
            patience,
            support_names(items, classes) | query_names(asked),
        )
        return decode_prediction(response, classes.labels, round_trip_ms)

    def get(self, adapted_model: str) -> AdaptedModel:
        """Return a handle on the adapted model with this id."""
        request = wire.GetAdaptedModelRequest(adapted_model=check_id(adapted_model))
        response, _ = self._call(self._stub.GetAdaptedModel, request)
        return AdaptedModel(self, decode_description(response.adapted_model))

    def list(self, *, model: str = "", filter: str = "") -> Iterator[AdaptedModel]:  # noqa: A002 -- the wire's name
        """Yield the adapted models that the server keeps, page by page.

        Only those of `model` (`NAME`, whether or not it is still served, `NAME@VERSION`, or
        `NAME@LABEL` of a served version), and those that fit all terms of `filter`, such as
        `class_name = "cat" AND expire_time < "2030-01-01T00:00:00Z"`. An
        unknown name gives none.
        """
        request = wire.ListAdaptedModelsRequest(
            page_size=_PAGE_SIZE,
            model=check_text("model", model),
            filter=check_text("filter", filter),
        )
        while True:
            response, _ = self._call(self._stub.ListAdaptedModels, request)
            for adapted in response.adapted_models:
                yield AdaptedModel(self, decode_description(adapted))
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def renew(
        self,
        adapted_model: AdaptedModel | str,
        *,
        ttl: float | timedelta | None = None,
        expire_at: datetime | None = None,
        etag: str = "",
    ) -> AdaptedModel:
        """Let an adapted model expire after `ttl`, or at `expire_at`; return its new handle.

        With an `etag` the server refuses unless that of its description is still the same.
        """
        request = encode_renewal(check_id(adapted_model), ttl, expire_at)
        request.etag = check_text("etag", etag)
        response, _ = self._call(self._stub.UpdateAdaptedModel, request)
        description = decode_description(response.adapted_model)
        if isinstance(adapted_model, AdaptedModel):
            return replace(adapted_model, description=description)
        return AdaptedModel(self, description)

    def revise(
        self,
        adapted_model: AdaptedModel | str,
        *,
        add: tuple[Images, Labels] | None = None,
        relabel: Mapping[int, Label] | None = None,
        remove: Iterable[int] = (),
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptedModel:
        """Adapt anew to the changed support set of an adapted model, which stays as it is.

        `add` is a pair of images and labels as `adapt` takes them, of known or new classes;
        `relabel` gives examples other labels and `remove` leaves examples out, by their indices in
        the support set. Options that are left out are those of the adapted model. The labels of the
        new handle are the caller's own where `adapted_model` is a handle that has such.
        """
        name, known = check_id(adapted_model), known_labels(adapted_model)
        settings, revision = encode_options(options), read_revision(add, relabel, remove)
        patience = self._patience(timeout, settings)
        images = [] if revision.added is None else [revision.added]
        side = self._useful_side(
            images, lambda: self._adapted_from(adapted_model, patience), patience
        )
        request, added = revision.encode(side)
        check_kinds(known, added, revision.classes)
        request.adapted_model = name
        request.options.CopyFrom(settings)
        request.etag = check_text("etag", etag)
        request.request_id = check_request_id(request_id)
        names = {} if revision.added is None else support_names(revision.added, added, "added")
        response, round_trip_ms = self._call(
            self._stub.ReviseAdaptedModel, request, patience, names
        )
        description = decode_description(response.adapted_model)
        return AdaptedModel(
            self,
            description,
            revised_labels(description.class_names, known, added, revision.classes),
            decode_answer(response),
            decode_timing(response.timing, round_trip_ms),
        )

    def import_model(
        self,
        path: str | Path,
        *,
        ttl: float | timedelta | None = None,
        timeout: float | None = None,
        progress: TellBytes | None = None,
    ) -> AdaptedModel:
        """Keep an adapted model again that `export` wrote a file of, under a new id.

        Its bundle must be served there. It has no support set, so it cannot be revised. `progress`
        is called with the bytes sent and those of the file, in a thread of gRPC.
        """
        header = wire.ImportHeader()
        if ttl is not None:
            set_duration(header.ttl, "ttl", ttl)
            header.ttl.SetInParent()
        patience = self._patience(timeout)
        parts = read_import(check_path("path", path), header, progress)
        response, _ = self._call(self._stub.ImportAdaptedModel, parts, patience)
        return AdaptedModel(self, decode_description(response.adapted_model))

    def delete(self, adapted_model: AdaptedModel | str) -> None:
        """Delete an adapted model, given as a handle or by its id."""
        request = wire.DeleteAdaptedModelRequest(adapted_model=check_id(adapted_model))
        self._call(self._stub.DeleteAdaptedModel, request)

    def export(
        self,
        adapted_model: AdaptedModel | str,
        path: str | Path,
        *,
        batch_norm_mode: str | None = None,
        progress: TellBytes | None = None,
    ) -> Path:
        """Write an adapted model as a self-contained ONNX file, whole or not at all.

        `progress` is called with the bytes received and those of the file.
        """
        request = wire.ExportAdaptedModelRequest(adapted_model=check_id(adapted_model))
        if batch_norm_mode is not None:
            request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
        self._connection.check_process()
        parts = self._connection.stream(self._stub.ExportAdaptedModel, request)
        return write_export(parts, check_path("path", path), progress)

    def capabilities(self) -> Capabilities:
        """Return the served models, their options and limits, and the server's own limits."""
        return self._capabilities(self._patience())

    def _capabilities(self, patience: Patience) -> Capabilities:
        request = wire.GetCapabilitiesRequest()
        response, _ = self._call(self._stub.GetCapabilities, request, patience)
        return decode_capabilities(response)

    def _useful_side(
        self,
        images: Sequence[Gathered],
        model: Callable[[], str | None],
        patience: Patience,
    ) -> int:
        """Return the bound on the shorter side of images, 0 where they are sent as they are.

        The server is asked only about large images, now and then, within the call's own time.
        """
        if not any(map(any_large, images)):
            return 0
        return self._useful_sides.of(model(), lambda: self._capabilities(patience))

    def _adapted_from(self, adapted_model: AdaptedModel | str, patience: Patience) -> str:
        """Return the model behind an adapted one; the server is asked once."""
        if isinstance(adapted_model, AdaptedModel):
            return adapted_model.description.model
        model = self._models.get(adapted_model)  # another thread may clear them at any time
        if model is None:
            request = wire.GetAdaptedModelRequest(adapted_model=adapted_model)
            response, _ = self._call(self._stub.GetAdaptedModel, request, patience)
            model = response.adapted_model.model
            if len(self._models) >= _MOST_KNOWN:
                self._models.clear()
            self._models[adapted_model] = model
        return model

    @property
    def _stub(self) -> AdaptationServiceStub:
        return self._connection.stub

    def _patience(
        self, timeout: float | None = None, options: wire.AdaptOptions | None = None
    ) -> Patience:
        computing = 0.0 if options is None else seconds(options.time_budget)
        return self._connection.patience(timeout, computing)

    def _call(
        self,
        method: Callable[..., _Response],
        request: Message | Iterator[Message],
        patience: Patience | None = None,
        names: Names | None = None,
    ) -> tuple[_Response, float]:
        """Make a call, see `Connection.call`."""
        try:
            return self._connection.call(method, request, patience or self._patience(), names)
        except UnavailableError:
            self._useful_sides.forget()
            raise


def _model_name(model: object) -> str | None:
    return None if model is None else check_text("model", model)


def _bound(reject_below: object) -> float | None:
    return None if reject_below is None else check_number("reject_below", reject_below)
