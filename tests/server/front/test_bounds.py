"""Answers, pages and files that would be too much."""

from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from kshot.server import front
from kshot.server.limits.pace import Pace
from kshot.server.rpc.interceptor import _forget_frames
from kshot.server.server import SERVICE
from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
NAMES = [letter * 250 for letter in "abc"]


@pytest.fixture(scope="module")
def small(
    make_config: Make,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[Any]:
    """A server with answers of 16 KiB at most."""
    with run_in_thread(make_config(max_answer_bytes=2**14)) as server:
        yield server


def named(request: Any) -> Any:  # noqa: ANN401 -- any request with a support set
    request.support_set.class_names[:] = NAMES
    return request


def test_the_greatest_answer_is_told(small: Any) -> None:  # noqa: ANN401 -- a running server
    limits = small.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).limits

    assert (limits.max_answer_bytes, limits.max_connection_call_count) == (2**14, 128)


def test_a_large_answer_is_refused_before_any_work(
    small: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
    refusal: Make,
) -> None:
    """Without names it fits, and says the same."""
    made = small.stub.Adapt(named(adapt_request()), timeout=30).adapted_model
    request = wire.PredictRequest(adapted_model=made.id, queries=queries(16), top_k=3)

    refused = refusal(lambda: small.stub.Predict(request, timeout=30))
    request.omit_class_names = True
    answer = small.stub.Predict(request, timeout=30)

    (description,) = refused.violations.values()
    assert description.startswith("expected an answer of at most 16384 bytes, got 16 queries whose")
    assert description.endswith("fewer queries at a time or a smaller top_k or omit_class_names")
    assert answer.ByteSize() < 2**14
    assert list(answer.class_names) == NAMES
    best = np.frombuffer(answer.probabilities.data, "<f4").reshape(16, 3).argmax(axis=1)
    assert [item.class_index for item in answer.predictions] == best.tolist()


def test_answers_without_keeping_are_bounded_too(
    small: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
    refusal: Make,
) -> None:
    request = wire.AdaptAndPredictRequest(
        model="tiny",
        support_set=named(adapt_request()).support_set,
        queries=queries(16),
        top_k=3,
    )

    refused = refusal(lambda: small.stub.AdaptAndPredict(request, timeout=30))
    request.omit_class_names = True
    answer = small.stub.AdaptAndPredict(request, timeout=30)

    assert set(refused.violations) == {"queries"}
    assert {item.class_name for item in answer.predictions} == {""}


def test_pages_are_as_large_as_answers_may_be(small: Any, adapt_request: Make) -> None:  # noqa: ANN401 -- a running server
    made = [small.stub.Adapt(adapt_request(), timeout=30).adapted_model.id for _ in range(8)]
    found, token, sizes = [], "", []
    while token or not sizes:
        request = wire.ListAdaptedModelsRequest(page_size=100, page_token=token)
        page = small.stub.ListAdaptedModels(request, timeout=30)
        found += [model.id for model in page.adapted_models]
        sizes.append(len(page.adapted_models))
        token = page.next_page_token

    assert set(made) <= set(found)
    assert max(sizes) == 2  # of 20 classes whose names have 256 bytes


def test_a_server_without_descriptors_says_so(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    refusal: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_given: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    made = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    monkeypatch.setattr(front, "export_model", refuse)
    request = wire.ExportAdaptedModelRequest(adapted_model=made)

    refused = refusal(lambda: list(server.stub.ExportAdaptedModel(request, timeout=30)))

    assert (refused.code, refused.reason) == ("UNAVAILABLE", "TOO_MANY_FILES")


def test_a_message_above_the_bound_is_refused_by_grpc(small: Any) -> None:  # noqa: ANN401 -- a running server
    with pytest.raises(grpc.RpcError) as caught:
        small.channel.unary_unary(f"/{SERVICE}/Predict", bytes, bytes)(bytes(2**25 + 1), timeout=30)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_many_fields_are_refused(small: Any, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    items = wire.EncodedImages(items=[b""] * 40_000)
    request = wire.PredictRequest(queries=wire.Images(encoded=items))

    refused = refusal(lambda: small.stub.Predict(request, timeout=30))

    (description,) = refused.violations.values()
    assert description.startswith("expected at most 20000 items")


def test_large_messages_are_charged_where_they_are_refused(
    small: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    charged = list[int]()
    monkeypatch.setattr(Pace, "charge", lambda _, _caller, size: charged.append(size))
    send = small.channel.unary_unary("/kshot.v1.AdaptationService/Predict")
    for size in (100_000, 50):
        with pytest.raises(grpc.RpcError):
            send(b"\xff" * size, timeout=30)
    small.stub.Adapt(adapt_request(), timeout=30)

    assert charged == [100_000, 50]


class Content:
    """What a frame holds."""


def test_refused_calls_are_freed_at_once(small: Any) -> None:  # noqa: ANN401 -- a running server
    """In cycles, they counted as streams of their connection until a collection."""
    request = wire.PredictRequest(adapted_model="x")
    gc.collect()
    gc.disable()
    try:
        for _ in range(120):
            with pytest.raises(grpc.RpcError):
                small.stub.Predict(request, timeout=30)
        alive = sum(type(each).__name__ == "RPCState" for each in gc.get_objects())
    finally:
        gc.enable()

    assert alive < 60


def test_a_refused_call_keeps_nothing() -> None:
    """gRPC keeps errors in a cycle: each kept its whole message until a collection."""
    held = []

    def fail() -> None:
        content = Content()
        held.append(weakref.ref(content))
        try:
            raise ValueError
        except ValueError as error:
            raise KeyError from error

    try:
        fail()
    except KeyError as error:
        kept = error
    _forget_frames(kept)

    assert held[0]() is None
