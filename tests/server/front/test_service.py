from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from kshot.server.rpc.service import CHUNK_BYTES
from kshot.server.server import SERVICE
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]


def numbers(tensor: wire.Tensor) -> np.ndarray[Any, Any]:
    assert tensor.datatype == "FP32"
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def duration(seconds: int) -> Duration:
    return Duration(seconds=seconds)


def test_adapt_echoes_what_it_made(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    response = stub.Adapt(adapt_request(way=3, shot=2, step_count=7, seed=5), timeout=30)

    model = response.adapted_model
    assert model.model == "tiny"
    assert list(model.class_names) == ["class 0", "class 1", "class 2"]
    assert len(model.weights_digest) == len(model.adaptation_digest) == 64
    assert model.step_count == model.options.step_count == 7
    assert model.options.seed == 5
    assert model.options.learning_rate == 0.001
    assert model.options.batch_size == 5
    assert model.options.preconditioner == wire.PRECONDITIONER_CARRIED
    assert model.options.head == wire.HEAD_TRAINED
    assert model.options.scope == wire.SCOPE_ALL
    assert model.options.batch_norm_mode == wire.BATCH_NORM_MODE_SUPPORT
    assert model.options.ttl.ToSeconds() == 7 * 24 * 3600
    assert all(
        model.options.HasField(name) for name in ("allow_partial", "deterministic", "step_count")
    )
    assert model.expire_time.ToSeconds() - model.create_time.ToSeconds() == 7 * 24 * 3600
    assert model.size_bytes > 0
    assert model.support_accuracy == 1.0
    assert response.report.stop_reason == wire.STOP_REASON_COMPLETED
    assert len(response.report.support_loss) == 7
    assert response.report.slot_bucket == 1
    assert response.timing.compute.ToMilliseconds() == 1
    assert response.timing.store.ToNanoseconds() > 0


def test_equal_requests_have_equal_digests(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    first = stub.Adapt(adapt_request(), timeout=30).adapted_model
    second = stub.Adapt(adapt_request(), timeout=30).adapted_model
    other = stub.Adapt(adapt_request(seed=1), timeout=30).adapted_model

    assert first.id != second.id
    assert first.adaptation_digest == second.adaptation_digest != other.adaptation_digest
    assert first.weights_digest == second.weights_digest


def test_predict_answers_with_names_and_probabilities(
    stub: AdaptationServiceStub, adapt_request: Make, support_set: Make
) -> None:
    model = stub.Adapt(adapt_request(way=4, shot=1), timeout=30).adapted_model
    request = wire.PredictRequest(
        adapted_model=model.id,
        queries=support_set(4, 1).images,
        top_k=2,
        return_logits=True,
    )

    response = stub.Predict(request, timeout=30)

    probabilities, logits = numbers(response.probabilities), numbers(response.logits)
    exact = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, exact / exact.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert [item.class_name for item in response.predictions] == list(model.class_names)
    assert [item.class_index for item in response.predictions] == [0, 1, 2, 3]
    for row, item in zip(probabilities, response.predictions, strict=True):
        assert item.probability == row.max()
        assert [top.probability for top in item.top_classes] == sorted(row, reverse=True)[:2]
    assert response.adapted_model == model.id
    assert response.weights_digest == model.weights_digest
    assert list(response.class_names) == list(model.class_names)
    assert response.batch_norm_mode == wire.BATCH_NORM_MODE_SUPPORT


def test_predict_gives_no_more_than_was_asked_for(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    model = stub.Adapt(adapt_request(way=3), timeout=30).adapted_model

    plain = stub.Predict(
        wire.PredictRequest(adapted_model=model.id, queries=queries(2)), timeout=30
    )
    wide = stub.Predict(
        wire.PredictRequest(adapted_model=model.id, queries=queries(2), top_k=9), timeout=30
    )

    assert not plain.HasField("logits")
    assert [len(item.top_classes) for item in plain.predictions] == [0, 0]
    assert [len(item.top_classes) for item in wide.predictions] == [3, 3]


@pytest.mark.parametrize(
    "mode", [wire.BATCH_NORM_MODE_TRANSDUCTIVE, wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY]
)
def test_predict_uses_the_models_own_mode(
    stub: AdaptationServiceStub,
    adapt_request: Make,
    queries: Make,
    mode: wire.BatchNormMode.ValueType,
) -> None:
    own = stub.Adapt(adapt_request(batch_norm_mode=mode), timeout=30).adapted_model
    other = stub.Adapt(adapt_request(), timeout=30).adapted_model

    by_default = stub.Predict(
        wire.PredictRequest(adapted_model=own.id, queries=queries()), timeout=30
    )
    by_request = stub.Predict(
        wire.PredictRequest(adapted_model=other.id, queries=queries(), batch_norm_mode=mode),
        timeout=30,
    )
    usual = stub.Predict(wire.PredictRequest(adapted_model=other.id, queries=queries()), timeout=30)

    assert by_default.batch_norm_mode == by_request.batch_norm_mode == mode
    assert by_default.probabilities == by_request.probabilities != usual.probabilities


def test_adapt_and_predict_keeps_nothing(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    task = adapt_request(seed=11)
    kept = stub.Adapt(task, timeout=30).adapted_model
    apart = stub.Predict(
        wire.PredictRequest(adapted_model=kept.id, queries=queries(), return_logits=True),
        timeout=30,
    )
    before = stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(page_size=100), timeout=30)

    together = stub.AdaptAndPredict(
        wire.AdaptAndPredictRequest(
            model="tiny",
            support_set=task.support_set,
            options=task.options,
            queries=queries(),
            return_logits=True,
        ),
        timeout=30,
    )

    after = stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(page_size=100), timeout=30)
    assert together.logits == apart.logits
    assert together.probabilities == apart.probabilities
    assert together.predictions == apart.predictions
    assert together.adapted_model.weights_digest == kept.weights_digest
    assert together.adapted_model.adaptation_digest == kept.adaptation_digest
    assert together.adapted_model.id == ""
    assert not together.adapted_model.HasField("expire_time")
    assert not together.adapted_model.options.HasField("ttl")
    assert together.timing.store.ToNanoseconds() == 0
    assert after == before


def test_get_list_and_delete(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    made = [stub.Adapt(adapt_request(), timeout=30).adapted_model for _ in range(3)]

    listed: list[wire.AdaptedModel] = []
    token = ""
    while True:
        page = stub.ListAdaptedModels(
            wire.ListAdaptedModelsRequest(page_size=2, page_token=token, model="tiny"), timeout=30
        )
        assert len(page.adapted_models) <= 2
        listed += page.adapted_models
        token = page.next_page_token
        if not token:
            break
    got = stub.GetAdaptedModel(wire.GetAdaptedModelRequest(adapted_model=made[0].id), timeout=30)
    deleted = stub.DeleteAdaptedModel(
        wire.DeleteAdaptedModelRequest(adapted_model=made[0].id), timeout=30
    )
    rest = stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(page_size=100), timeout=30)

    assert got.adapted_model == made[0]
    assert [model for model in listed if model in made] == made
    assert deleted.adapted_model == made[0].id
    assert made[0].id not in [model.id for model in rest.adapted_models]


def test_update_moves_the_expiry(
    stub: AdaptationServiceStub, adapt_request: Make, support_set: Make
) -> None:
    """Memory, store and list agree at once; the old etag is refused, and changes nothing."""
    first = stub.Adapt(adapt_request(ttl=duration(60)), timeout=30).adapted_model
    query = wire.PredictRequest(adapted_model=first.id, queries=support_set(5, 1).images)
    stub.Predict(query, timeout=30)

    request = wire.UpdateAdaptedModelRequest(
        adapted_model=first.id,
        ttl=duration(3600),
        update_mask=FieldMask(paths=["expire_time"]),
        etag=first.etag,
    )
    changed = stub.UpdateAdaptedModel(request, timeout=30).adapted_model

    assert 3500 < changed.expire_time.seconds - first.create_time.seconds < 3700
    assert changed.etag != first.etag
    stub.Predict(query, timeout=30)
    described = stub.GetAdaptedModel(
        wire.GetAdaptedModelRequest(adapted_model=first.id), timeout=30
    ).adapted_model
    assert described == changed
    with pytest.raises(grpc.RpcError) as caught:
        stub.UpdateAdaptedModel(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(grpc.RpcError, match="expire_time alone"):
        stub.UpdateAdaptedModel(
            wire.UpdateAdaptedModelRequest(
                adapted_model=first.id,
                ttl=duration(3600),
                update_mask=FieldMask(paths=["class_names"]),
            ),
            timeout=30,
        )
    fresh = wire.UpdateAdaptedModelRequest(
        adapted_model=first.id, expire_time=first.expire_time, etag=changed.etag
    )
    again = stub.UpdateAdaptedModel(fresh, timeout=30).adapted_model
    assert abs(again.expire_time.ToNanoseconds() - first.expire_time.ToNanoseconds()) < 1000


def test_list_keeps_what_fits_the_filter(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    def listed(text: str) -> list[str]:
        request = wire.ListAdaptedModelsRequest(filter=text, page_size=100)
        return [model.id for model in stub.ListAdaptedModels(request, timeout=30).adapted_models]

    model = stub.Adapt(adapt_request(way=5, shot=1), timeout=30).adapted_model
    digest = f'bundle_digest = "{model.bundle_digest}"'

    assert model.id in listed(f'class_name = "class 4" AND {digest}')
    assert model.id not in listed('class_name = "class 9"')
    now = 'create_time > "2000-01-01T00:00:00Z"'
    assert model.id in listed(now)
    with pytest.raises(grpc.RpcError, match="expected one of create_time") as caught:
        listed("colour = 1")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_model_tells_what_made_it(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    first = stub.Adapt(adapt_request(way=3, shot=2), timeout=30).adapted_model
    again = stub.Adapt(adapt_request(way=3, shot=2, seed=1), timeout=30).adapted_model
    other = stub.Adapt(adapt_request(way=2, shot=2), timeout=30).adapted_model

    assert first.support_digest == again.support_digest != other.support_digest
    assert len(first.support_digest) == 64
    assert (first.support_count, first.support_kept, first.model_version) == (6, True, 1)
    assert {"numpy", "onnxruntime", "torch"} <= first.library_versions.keys()
    assert not first.parent
    assert first.etag not in ("", again.etag)


def test_export_runs_without_the_server(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model
    request = wire.ExportAdaptedModelRequest(adapted_model=model.id)

    header, *chunks = stub.ExportAdaptedModel(request, timeout=30)

    content = b"".join(message.chunk for message in chunks)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"inputs": numbers(queries().tensor)})
    answered = stub.Predict(
        wire.PredictRequest(adapted_model=model.id, queries=queries(), return_logits=True),
        timeout=30,
    )
    np.testing.assert_allclose(logits, numbers(answered.logits), atol=1e-5)
    assert header.header.size_bytes == len(content)
    assert header.header.adapted_model == model
    assert header.header.batch_norm_mode == wire.BATCH_NORM_MODE_SUPPORT
    assert all(0 < len(message.chunk) <= CHUNK_BYTES for message in chunks)


def test_capabilities_state_what_requests_may_ask(stub: AdaptationServiceStub) -> None:
    answer = stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)

    (model,) = answer.models
    assert model.model == "tiny"
    assert list(model.input_shape) == [1, 4, 4]
    assert model.default_options.step_count == 10
    assert not model.default_options.HasField("batch_size")
    assert list(model.batch_norm_modes) == [1, 2, 3]
    assert list(model.preconditioners) == [1, 2, 3, 4]
    assert model.max_way == 20
    assert answer.limits.max_message_bytes == 32 * 2**20
    assert answer.limits.max_image_pixels == 2**26
    assert answer.limits.max_request_pixels == 2**29
    assert answer.models[0].max_useful_side == 0  # nearest neighbour: every pixel may count
    assert answer.limits.max_predict_image_count == 2**15
    assert answer.engine.device == "cpu"
    assert answer.engine.compute_path == "fake"


def test_files_and_pixels_adapt_the_same(stub: AdaptationServiceStub) -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (3, 9, 7), dtype=np.uint8)
    files = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        files.append(buffer.getvalue())
    labels: dict[str, Any] = {"class_indices": [0, 1, 2], "class_names": ["a", "b", "ü"]}
    tensor = wire.Tensor(datatype="UINT8", shape=pixels.shape, data=pixels.tobytes())

    answers = [
        stub.Adapt(
            wire.AdaptRequest(model="tiny", support_set=wire.SupportSet(images=images, **labels)),
            timeout=30,
        ).adapted_model
        for images in (
            wire.Images(tensor=tensor),
            wire.Images(encoded=wire.EncodedImages(items=files)),
        )
    ]

    assert answers[0].adaptation_digest == answers[1].adaptation_digest


def test_reflection_lists_the_service(server: Any) -> None:  # noqa: ANN401 -- a running server
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=30)

    names = {item.name for item in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
