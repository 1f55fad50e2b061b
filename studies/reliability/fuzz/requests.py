"""Requests: parsed, read and checked as the front does it, without a network between."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.server.call_context import begin_call
from kshot.server.checked_task import check_task
from kshot.server.errors import RequestError
from kshot.server.oip.contents import INPUT, read_images
from kshot.server.oip.decode import (
    LABELS,
    LOGITS,
    PROBABILITIES,
    check_request_id,
    in_these_words,
    predict_input,
    read_outputs,
)
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.prediction import (
    CostLimits,
    check_cost,
    check_mode,
    prepare_queries,
)
from kshot.server.request.images import PixelBudget, SharedImages
from kshot.server.request.options import TtlLimits
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.rpc import decode
from kshot.server.rpc.capabilities import capabilities_message
from kshot.server.rpc.decode import adapt_input
from kshot.server.store.page_token import page_token, parse_page_token
from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.fuzz.mutation import bytes_like, message_like
from studies.reliability.fuzz.target import Target
from studies.reliability.tasks import make_tasks, tensor_of

_MODULES = (
    "kshot.server.rpc.decode",
    "kshot.server.request.decoding",
    "kshot.server.request.images",
    "kshot.server.request.options",
    "kshot.server.request.validation",
    "kshot.server.request.violations",
    "kshot.server.store.page_token",
)
_INFER_MODULES = ("kshot.server.oip.contents", "kshot.server.oip.decode")
_TTL = TtlLimits(3600.0, 7200.0)
_MOST_PIXELS = 2**20
_ID = "am-" + "abcdefgh234567abcdefgh2345"


def adapt_target(bundles: Sequence[Path], config: Any) -> Target:  # noqa: ANN401 -- the server's settings
    """Read and check requests to adapt."""
    catalog = Catalog.load(bundles)
    models = list(catalog)
    served = capabilities_message(catalog.by_name, config, None).models
    requests = [task.request for task in make_tasks(served, 12)]
    for request in requests[:3]:
        pixels = wire.AdaptRequest()
        pixels.CopyFrom(request)
        pixels.support_set.images.CopyFrom(_pixels(len(request.support_set.class_indices)))
        requests.append(pixels)

    def run(content: bytes) -> bool:
        request = wire.AdaptRequest()
        try:
            request.ParseFromString(content)
        except DecodeError:
            return False
        begin_call("Adapt")
        violations = Violations()
        try:
            task = adapt_input(request, violations)
            model = models[len(content) % len(models)]
            check_task(task, model, _TTL, _budget(), violations)
            violations.check()
        except RequestError:
            pass
        return True

    return Target(_drawing(requests), run, _MODULES)


def predict_target(bundles: Sequence[Path], config: Any) -> Target:  # noqa: ANN401 -- the server's settings
    """Read and check requests to predict."""
    catalog = Catalog.load(bundles)
    models = list(catalog)
    served = capabilities_message(catalog.by_name, config, None).models
    requests = [
        wire.PredictRequest(adapted_model=_ID, queries=queries, top_k=3)
        for task in make_tasks(served, 12)
        for queries in (*task.queries[:2], _pixels(2))
    ]

    def run(content: bytes) -> bool:
        request = wire.PredictRequest()
        try:
            request.ParseFromString(content)
        except DecodeError:
            return False
        begin_call("Predict")
        violations = Violations()
        try:
            query = decode.predict_input(request, violations)
            check_id(request.adapted_model, violations)
            model = models[len(content) % len(models)]
            check_mode(query.mode, model, violations)
            mode = query.mode or model.bundle.manifest.batch_norm.default
            check_cost(
                query.queries, 10, mode, model.image_mac_count, CostLimits(1000, 10**9), violations
            )
            prepare_queries(query.queries, model, _budget(), violations)
            violations.check()
        except RequestError:
            pass
        return True

    return Target(_drawing(requests), run, _MODULES)


def infer_target(bundles: Sequence[Path], config: Any) -> Target:  # noqa: ANN401 -- the server's settings
    """Read and check requests of the Open Inference Protocol."""
    catalog = Catalog.load(bundles)
    models = list(catalog)
    served = capabilities_message(catalog.by_name, config, None).models
    requests = [
        infer_request(_ID, queries, typed=typed)
        for task in make_tasks(served, 6)
        for queries in (*task.queries[:2], _pixels(2))
        for typed in (False, True)
    ]

    def run(content: bytes) -> bool:
        request = oip.ModelInferRequest()
        try:
            request.ParseFromString(content)
        except DecodeError:
            return False
        begin_call("ModelInfer")
        violations = Violations()
        try:
            check_request_id(request, violations)
            outputs = read_outputs(request, (PROBABILITIES, LABELS), (LOGITS,), violations)
            predict_input(request, outputs, violations)
            model = models[len(content) % len(models)]
            most = model.bundle.manifest.limits.max_query_count
            images = read_images(request, most, violations)
            violations.check()
            with in_these_words():
                prepare_queries(images, model, _budget(), violations)
                violations.check()
        except RequestError:
            pass
        return True

    return Target(_drawing(requests), run, _INFER_MODULES)


def infer_request(model: str, queries: wire.Images, *, typed: bool) -> oip.ModelInferRequest:
    """Ask of the Open Inference Protocol what `Predict` is asked, with raw or typed contents."""
    request = oip.ModelInferRequest(model_name=model, id="1")
    request.outputs.add(name=PROBABILITIES)
    request.parameters["top_k"].int64_param = 2
    request.parameters["batch_norm_mode"].string_param = "support"
    tensor = request.inputs.add(name=INPUT)
    if queries.WhichOneof("content") == "encoded":
        items = queries.encoded.items
        tensor.datatype, raw = "BYTES", b"".join(map(_behind_length, items))
        tensor.shape.append(len(items))
        tensor.contents.bytes_contents.extend(items)
    else:
        sent = queries.tensor
        tensor.datatype, raw = sent.datatype, sent.data
        tensor.shape.extend(sent.shape)
        if sent.datatype == "UINT8":
            tensor.contents.uint_contents.extend(sent.data)
        else:
            tensor.contents.fp32_contents.extend(np.frombuffer(sent.data, "<f4").tolist())
    if not typed:
        tensor.ClearField("contents")
        request.raw_input_contents.append(raw)
    return request


def _behind_length(item: bytes) -> bytes:
    return len(item).to_bytes(4, "little") + item


def names_target() -> Target:
    """Check ids and tokens of pages."""
    corpus = [_ID.encode(), page_token((1.5, _ID), "small").encode(), b"", b"../../etc"]

    def draw(chance: random.Random) -> bytes:
        return bytes_like(chance, chance.choice(corpus), corpus)

    def run(content: bytes) -> bool:
        text = content.decode(errors="surrogateescape")
        begin_call("ListAdaptedModels")
        fits = check_id(text, Violations())
        if fits != (len(text) == len(_ID) and text.startswith("am-") and text.isascii()) and fits:
            raise AssertionError(f"accepted the id {text!r}")
        try:
            parse_page_token(text, "small")
        except RequestError:
            return False
        return True

    return Target(draw, run, _MODULES)


def _drawing(requests: Sequence[Any]) -> Any:  # noqa: ANN401 -- messages of either kind
    contents = [request.SerializeToString() for request in requests]

    def draw(chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return bytes_like(chance, chance.choice(contents), contents)
        base = chance.choice(requests)
        request = type(base)()
        request.CopyFrom(base)
        message_like(chance, request)
        return bytes(request.SerializeToString())

    return draw


def _pixels(count: int) -> wire.Images:
    """Return uint8 images that the models have to bring into their form."""
    return tensor_of(np.random.default_rng(count).integers(0, 256, (count, 9, 7, 3), np.uint8))


def _budget() -> PixelBudget:
    return PixelBudget(_MOST_PIXELS, 4 * _MOST_PIXELS, SharedImages())
