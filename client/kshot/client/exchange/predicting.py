"""Exchanges that classify queries: with a kept model, or with one for these queries alone."""

from __future__ import annotations

from dataclasses import dataclass

from kshot.client.encoding import (
    decode_prediction,
    encode_images,
    encode_support,
    query_names,
    support_names,
)
from kshot.client.exchange.adapting import Examples, Terms, check_model
from kshot.client.exchange.call import Call, Exchange, ask
from kshot.client.exchange.known_server import KnownServer
from kshot.client.inputs import Images, gather
from kshot.client.kept_model import KeptModel, check_id, own_labels
from kshot.client.options import encode_choice, encode_options
from kshot.client.results import Prediction
from kshot.client.values import check_flag, check_number
from kshot.v1 import adaptation_pb2 as wire


@dataclass(frozen=True)
class Queries:
    """What is to be classified, and what is wanted beside the probabilities."""

    images: Images
    return_logits: bool = False
    reject_below: float | None = None


def predict(
    server: KnownServer,
    adapted_model: KeptModel | str,
    queries: Queries,
    batch_norm_mode: str | None,
    timeout: float | None,
) -> Exchange[Prediction]:
    """Classify queries with an adapted model, given as a handle or by its id."""
    name, labels = check_id(adapted_model), own_labels(adapted_model)
    patience, items = server.patience(timeout), gather(queries.images, "queries")
    side = yield from server.useful_side([items], patience, adapted_model=adapted_model)
    request = wire.PredictRequest(
        adapted_model=name,
        queries=encode_images(items, side, "queries"),
        return_logits=check_flag("return_logits", queries.return_logits),
        reject_below=_bound(queries.reject_below),
        omit_class_names=True,
    )
    if batch_norm_mode is not None:
        request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
    call = Call("Predict", request, patience, query_names(items))
    response, took_ms = yield from ask(call, wire.PredictResponse)
    return decode_prediction(response, labels, took_ms)


def adapt_and_predict(
    server: KnownServer, examples: Examples, queries: Queries, model: str | None, terms: Terms
) -> Exchange[Prediction]:
    """Adapt, classify queries and keep nothing."""
    settings = encode_options(terms.options)
    patience = server.patience(terms.timeout, settings)
    name = check_model(model)
    items, asked = gather(examples[0], "images"), gather(queries.images, "queries")
    side = yield from server.useful_side([items, asked], patience, model=name)
    support, classes = encode_support(items, examples[1], side)
    request = wire.AdaptAndPredictRequest(
        model=name or "",
        support_set=support,
        options=settings,
        queries=encode_images(asked, side, "queries"),
        return_logits=check_flag("return_logits", queries.return_logits),
        reject_below=_bound(queries.reject_below),
        omit_class_names=True,
    )
    names = support_names(items, classes) | query_names(asked)
    call = Call("AdaptAndPredict", request, patience, names)
    response, took_ms = yield from ask(call, wire.AdaptAndPredictResponse)
    return decode_prediction(response, classes.labels, took_ms)


def _bound(reject_below: object) -> float | None:
    return None if reject_below is None else check_number("reject_below", reject_below)
