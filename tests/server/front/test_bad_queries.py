from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest

from kshot.server.store.page_token import page_token
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]
Refuse = Callable[[Callable[[], object]], Any]


@pytest.fixture(autouse=True)
def next_request_works(stub: AdaptationServiceStub, adapt_request: Make) -> Iterator[None]:
    """After whatever a test sends, a good request is answered."""
    yield
    assert stub.Adapt(adapt_request(), timeout=30).adapted_model.id


def encoded(*items: bytes) -> wire.Images:
    return wire.Images(encoded=wire.EncodedImages(items=items))


def pixels(array: np.ndarray[Any, Any]) -> wire.Images:
    return wire.Images(tensor=wire.Tensor(datatype="FP32", shape=array.shape, data=array.tobytes()))


def test_queries_that_do_not_fit(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Refuse
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id

    def predict(**fields: Any) -> Any:  # noqa: ANN401 -- any field of the message
        request = wire.PredictRequest(adapted_model=model, **fields)
        return refusal(lambda: stub.Predict(request, timeout=30)).violations

    assert set(predict()) == {"queries"}
    assert set(predict(queries=encoded())) == {"queries"}
    assert set(predict(queries=encoded(*[b""] * 1001))) == {"queries"}
    assert set(predict(queries=encoded(b"x"), top_k=-1, batch_norm_mode=7)) == {
        "queries.encoded.items[0]",
        "top_k",
        "batch_norm_mode",
    }
    assert (
        "image 1"
        in predict(
            queries=pixels(np.array([0, np.nan], np.float32).repeat(16).reshape(2, 1, 4, 4))
        )["queries.tensor"]
    )


def test_prepared_values_out_of_range_are_refused(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Refuse
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    raw = np.full((2, 1, 4, 4), 255, np.float32)
    raw[0] = 0
    request = wire.PredictRequest(adapted_model=model, queries=pixels(raw))

    found = refusal(lambda: stub.Predict(request, timeout=30)).violations

    assert found["queries.tensor"].startswith("image 1: expected prepared values from 0 to 1, got")


def test_bits_are_told_from_pictures(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Refuse
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    tensor = wire.Tensor(datatype="UINT8", shape=[1, 4, 4], data=bytes([0, 1] * 8))
    request = wire.PredictRequest(adapted_model=model, queries=wire.Images(tensor=tensor))

    found = refusal(lambda: stub.Predict(request, timeout=30)).violations

    assert "got only 0 and 1; multiply by 255" in found["queries.tensor"]


def test_adapt_and_predict_lists_all_violations(
    stub: AdaptationServiceStub, support_set: Make, refusal: Refuse
) -> None:
    request = wire.AdaptAndPredictRequest(
        model="tiny", support_set=support_set(), queries=encoded(b"x"), top_k=-1
    )
    request.options.ttl.FromSeconds(5)
    request.options.step_count = 101

    found = refusal(lambda: stub.AdaptAndPredict(request, timeout=30)).violations

    assert set(found) == {"top_k", "options.ttl", "options.step_count", "queries.encoded.items[0]"}


@pytest.mark.parametrize(
    "adapted_model", ["", "x", "../../etc/passwd", "am-" + "A" * 26, "am-" + "a" * 65536, "a/b"]
)
def test_malformed_ids_are_refused(
    stub: AdaptationServiceStub, adapted_model: str, refusal: Refuse
) -> None:
    calls = (
        lambda: stub.GetAdaptedModel(
            wire.GetAdaptedModelRequest(adapted_model=adapted_model), timeout=30
        ),
        lambda: stub.DeleteAdaptedModel(
            wire.DeleteAdaptedModelRequest(adapted_model=adapted_model), timeout=30
        ),
        lambda: stub.Predict(
            wire.PredictRequest(adapted_model=adapted_model, queries=encoded(b"x")), timeout=30
        ),
        lambda: list(
            stub.ExportAdaptedModel(
                wire.ExportAdaptedModelRequest(adapted_model=adapted_model), timeout=30
            )
        ),
    )

    for call in calls:
        assert set(refusal(call).violations) == {"adapted_model"}


def test_violations_beside_a_malformed_id_are_listed(
    stub: AdaptationServiceStub, refusal: Refuse
) -> None:
    predict = wire.PredictRequest(adapted_model="x", top_k=-1)
    empty = wire.PredictRequest(adapted_model="x", queries=encoded())
    export = wire.ExportAdaptedModelRequest(
        adapted_model="x",
        batch_norm_mode=7,  # type: ignore[arg-type]  # not a value of the enum
    )

    found = refusal(lambda: stub.Predict(predict, timeout=30)).violations
    assert set(found) == {"adapted_model", "top_k", "queries"}
    found = refusal(lambda: stub.Predict(empty, timeout=30)).violations
    assert set(found) == {"adapted_model", "queries"}
    found = refusal(lambda: list(stub.ExportAdaptedModel(export, timeout=30))).violations
    assert set(found) == {"adapted_model", "batch_norm_mode"}


def test_unknown_and_deleted_ids_are_not_found(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make, refusal: Refuse
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    stub.DeleteAdaptedModel(wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30)

    for adapted_model, wanted in (
        ("am-" + "a" * 26, "ADAPTED_MODEL_NOT_FOUND"),
        (model, "ADAPTED_MODEL_DELETED"),
    ):
        request = wire.PredictRequest(adapted_model=adapted_model, queries=queries())
        refused = refusal(partial(stub.Predict, request, timeout=30))
        assert (refused.code, refused.reason) == ("NOT_FOUND", wanted)
        assert refused.details["ResourceInfo"].resource_name == adapted_model


def test_pages_that_do_not_exist_are_refused(stub: AdaptationServiceStub, refusal: Refuse) -> None:
    def page(**fields: Any) -> Any:  # noqa: ANN401 -- any field of the message
        request = wire.ListAdaptedModelsRequest(**fields)
        return refusal(lambda: stub.ListAdaptedModels(request, timeout=30)).violations

    assert set(page(page_size=-1)) == {"page_size"}
    for token in ("../x", page_token((1.0, "\ud800"), None), page_token((math.inf, "a"), None)):
        assert set(page(page_token=token)) == {"page_token"}


def test_a_message_above_the_cap_is_refused(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request()
    request.support_set.images.CopyFrom(encoded(bytes(33 * 2**20)))

    with pytest.raises(grpc.RpcError) as caught:
        stub.Adapt(request, timeout=30)

    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_too_much_for_the_network_is_refused(
    start_server: StartServer, adapt_request: Make, support_set: Make, queries: Make, refusal: Make
) -> None:
    """In `support_and_query` mode the support set runs with each query."""
    with start_server(max_predict_images=30) as server:
        model = server.stub.Adapt(adapt_request(way=3, shot=2), timeout=30).adapted_model.id

        def predict(count: int, mode: wire.BatchNormMode.ValueType) -> Any:  # noqa: ANN401 -- any answer
            request = wire.PredictRequest(
                adapted_model=model, queries=queries(count), batch_norm_mode=mode
            )
            return server.stub.Predict(request, timeout=30)

        both, support = wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY, wire.BATCH_NORM_MODE_SUPPORT
        once = wire.AdaptAndPredictRequest(
            model="tiny", support_set=support_set(way=3, shot=2), queries=queries(5)
        )
        once.options.batch_norm_mode = both

        assert len(predict(30, support).predictions) == 30
        assert len(predict(4, both).predictions) == 4
        assert set(refusal(lambda: predict(31, support)).violations) == {"queries"}
        description = refusal(lambda: predict(5, both)).violations["queries"]
        assert "got 5 images (35 to run, 6 of the support set beside each query)" in description
        assert "send at most 4 images at a time" in description
        again = refusal(lambda: server.stub.AdaptAndPredict(once, timeout=30)).violations
        assert set(again) == {"queries"}


def test_a_request_is_bounded_by_its_operations(
    start_server: StartServer, adapt_request: Make, queries: Make, refusal: Make
) -> None:
    with start_server(max_predict_macs=9_700) as server:
        adapted = server.stub.Adapt(adapt_request(way=3, shot=2), timeout=30).adapted_model.id
        (model,) = server.stub.GetCapabilities(wire.GetCapabilitiesRequest()).models
        most = 9_700 // model.image_mac_count

        def predict(count: int) -> Any:  # noqa: ANN401 -- any answer
            request = wire.PredictRequest(adapted_model=adapted, queries=queries(count))
            return server.stub.Predict(request, timeout=30)

        assert len(predict(most).predictions) == most
        description = refusal(lambda: predict(most + 1)).violations["queries"]
        assert "9700 multiply-accumulate operations" in description
        assert f"send at most {most} images at a time" in description
