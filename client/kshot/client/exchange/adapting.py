"""Exchanges that make adapted models: from examples, or from another model's support set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from kshot.client.adapt_run import AdaptProgress
from kshot.client.encoding import (
    decode_answer,
    decode_description,
    decode_progress,
    decode_timing,
    encode_support,
    support_names,
)
from kshot.client.exchange.call import Call, Exchange, ask
from kshot.client.exchange.known_server import KnownServer
from kshot.client.exchange.revision import Revision, check_kinds, revised_labels
from kshot.client.inputs import Images, gather
from kshot.client.kept_model import KeptModel, check_id, known_labels
from kshot.client.labels import Classes, Label, Labels
from kshot.client.options import AdaptOptions, encode_options
from kshot.client.values import check_request_id, check_text
from kshot.v1 import adaptation_pb2 as wire

Examples: TypeAlias = tuple[Images, Labels]


@dataclass(frozen=True)
class Terms:
    """How an adaptation is asked for: its options, its id and the seconds that it may take."""

    options: AdaptOptions
    request_id: str | None = None
    timeout: float | None = None


def adapt(
    server: KnownServer, examples: Examples, model: str | None, terms: Terms
) -> Exchange[KeptModel]:
    """Adapt a model to examples."""
    call, classes = yield from _adapt_call(server, examples, model, terms)
    response, took_ms = yield from ask(call, wire.AdaptResponse)
    return _adapted(response, classes.labels, took_ms)


def adapt_stream(
    server: KnownServer, examples: Examples, model: str | None, terms: Terms
) -> Exchange[tuple[Call, Callable[[wire.AdaptStreamResponse], AdaptProgress | KeptModel]]]:
    """Return the call of `AdaptStream`, and what reads the parts of its response."""
    call, classes = yield from _adapt_call(server, examples, model, terms)
    assert isinstance(call.request, wire.AdaptRequest)  # noqa: S101 -- it was made below
    request = wire.AdaptStreamRequest(adapt=call.request)
    began = time.perf_counter()

    def read(event: wire.AdaptStreamResponse) -> AdaptProgress | KeptModel:
        if event.WhichOneof("event") != "result":
            return decode_progress(event.progress)
        return _adapted(event.result, classes.labels, 1e3 * (time.perf_counter() - began))

    return replace(call, method="AdaptStream", request=request), read


def revise(
    server: KnownServer,
    adapted_model: KeptModel | str,
    revision: Revision,
    etag: str,
    terms: Terms,
) -> Exchange[KeptModel]:
    """Adapt anew to the changed support set of an adapted model."""
    name, known = check_id(adapted_model), known_labels(adapted_model)
    settings = encode_options(terms.options)
    patience = server.patience(terms.timeout, settings)
    images = [] if revision.added is None else [revision.added]
    side = yield from server.useful_side(images, patience, adapted_model=adapted_model)
    request, added = revision.encode(side)
    check_kinds(known, added, revision.classes)
    request.adapted_model = name
    request.options.CopyFrom(settings)
    request.etag = check_text("etag", etag)
    request.request_id = check_request_id(terms.request_id)
    names = {} if revision.added is None else support_names(revision.added, added, "added")
    call = Call("ReviseAdaptedModel", request, patience, names)
    response, took_ms = yield from ask(call, wire.ReviseAdaptedModelResponse)
    class_names = response.adapted_model.class_names
    labels = revised_labels(class_names, known, added, revision.classes)
    return _adapted(response, labels, took_ms)


def check_model(model: object) -> str | None:
    """Return the name of a served model, None where the server is to choose."""
    return None if model is None else check_text("model", model)


def _adapt_call(
    server: KnownServer, examples: Examples, model: str | None, terms: Terms
) -> Exchange[tuple[Call, Classes]]:
    """Return the call of `Adapt` with the classes of its examples."""
    settings = encode_options(terms.options)
    patience = server.patience(terms.timeout, settings)
    name = check_model(model)
    items = gather(examples[0], "images")
    side = yield from server.useful_side([items], patience, model=name)
    support, classes = encode_support(items, examples[1], side)
    request = wire.AdaptRequest(
        model=name or "",
        support_set=support,
        options=settings,
        request_id=check_request_id(terms.request_id),
    )
    return Call("Adapt", request, patience, support_names(items, classes)), classes


def _adapted(
    response: wire.AdaptResponse | wire.ReviseAdaptedModelResponse,
    labels: tuple[Label, ...] | None,
    took_ms: float,
) -> KeptModel:
    return KeptModel(
        decode_description(response.adapted_model),
        labels,
        decode_answer(response),
        decode_timing(response.timing, took_ms),
    )
