"""The Open Inference Protocol answers as the native service does, within the same bounds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kshot.bundle import Bundle
from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.oip.v2.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from kshot.server.access.limits import Limits
from kshot.server.access.quotas import Quotas
from kshot.server.oip.service import SERVICE
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]
MOST_IMAGES = 40
KINDS = ("FP32", "FP32 typed", "UINT8", "UINT8 typed", "BYTES", "BYTES typed")


@pytest.fixture(scope="module")
def channel(
    make_config: Make,
    tiny_bundle: Bundle,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[grpc.Channel]:
    """A server of a network alone, `tiny`, and of one behind an encoder, `encoded`."""
    bundles = (tiny_bundle.path, encoder_bundle.path)
    config = make_config(bundles=bundles, max_predict_images=MOST_IMAGES)
    with run_in_thread(config) as server:
        yield server.channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def native(channel: grpc.Channel) -> AdaptationServiceStub:
    return AdaptationServiceStub(channel)


@pytest.fixture(scope="module")
def adapted(native: AdaptationServiceStub) -> wire.AdaptedModel:
    """A model adapted to three classes of 4 x 4 images."""
    images = np.random.default_rng(0).random((6, 1, 4, 4), np.float32)
    tensor = wire.Tensor(datatype="FP32", shape=images.shape, data=images.tobytes())
    support = wire.SupportSet(
        images=wire.Images(tensor=tensor), class_indices=[0, 0, 1, 1, 2, 2], class_names="abc"
    )
    request = wire.AdaptRequest(model="tiny", support_set=support)
    return native.Adapt(request, timeout=60).adapted_model


def pixels(count: int = 3, side: int = 4) -> Numbers:
    return np.random.default_rng(1).integers(0, 256, (count, side, side), np.uint8)


def png(image: Numbers) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def request_of(model: str, kind: str, images: Numbers, **more: Any) -> oip.ModelInferRequest:  # noqa: ANN401 -- any field
    """Ask about images in one of the forms that they may have."""
    datatype, _, typed = kind.partition(" ")
    request = oip.ModelInferRequest(model_name=model, **more)
    entry = request.inputs.add(name="images", datatype=datatype, shape=images.shape)
    if datatype == "BYTES":
        items = [png(image) for image in images]
        entry.shape[:] = [len(items)]
        raw = b"".join(len(item).to_bytes(4, "little") + item for item in items)
        entry.contents.bytes_contents.extend(items)
    elif datatype == "UINT8":
        raw = images.tobytes()
        entry.contents.uint_contents.extend(images.ravel().tolist())
    else:
        prepared = (images / 255).astype(np.float32)[:, None]
        entry.shape[:] = prepared.shape
        raw = prepared.tobytes()
        entry.contents.fp32_contents.extend(prepared.ravel().tolist())
    if not typed:
        entry.ClearField("contents")
        request.raw_input_contents.append(raw)
    return request


def numbers(response: oip.ModelInferResponse, name: str) -> Numbers:
    (index,) = [at for at, output in enumerate(response.outputs) if output.name == name]
    output = response.outputs[index]
    assert output.datatype == "FP32"
    return np.frombuffer(response.raw_output_contents[index], "<f4").reshape(output.shape)


def test_the_server_describes_itself(stub: GRPCInferenceServiceStub) -> None:
    described = stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=30)

    assert stub.ServerLive(oip.ServerLiveRequest(), timeout=30).live
    assert stub.ServerReady(oip.ServerReadyRequest(), timeout=30).ready
    assert described.name == "kshot"
    assert described.version
    assert list(described.extensions) == ["kshot.v1.AdaptationService"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_model_answers_as_predict_does(
    stub: GRPCInferenceServiceStub,
    native: AdaptationServiceStub,
    adapted: wire.AdaptedModel,
    kind: str,
) -> None:
    tensor = wire.Tensor(datatype="UINT8", shape=[3, 4, 4], data=pixels().tobytes())
    asked = wire.PredictRequest(
        adapted_model=adapted.id, queries=wire.Images(tensor=tensor), return_logits=True
    )
    wanted = native.Predict(asked, timeout=30)
    request = request_of(adapted.id, kind, pixels(), id="mine", model_version="1")
    for name in ("probabilities", "logits", "labels"):
        request.outputs.add(name=name)

    response = stub.ModelInfer(request, timeout=30)

    assert (response.model_name, response.model_version, response.id) == (adapted.id, "1", "mine")
    assert response.parameters["weights_digest"].string_param == adapted.weights_digest
    assert response.parameters["batch_norm_mode"].string_param == "support"
    for name in ("probabilities", "logits"):
        expected = np.frombuffer(getattr(wanted, name).data, "<f4").reshape(3, 3)
        np.testing.assert_allclose(numbers(response, name), expected, atol=1e-5, rtol=0)
    labels = response.raw_output_contents[2]
    assert labels == b"".join(b"\1\0\0\0" + each.class_name.encode() for each in wanted.predictions)


def test_parameters_reach_predict(
    stub: GRPCInferenceServiceStub, adapted: wire.AdaptedModel
) -> None:
    parameters = {
        "batch_norm_mode": oip.InferParameter(string_param="transductive"),
        "top_k": oip.InferParameter(int64_param=2),
    }
    request = request_of(adapted.id, "UINT8", pixels(), parameters=parameters)

    response = stub.ModelInfer(request, timeout=30)

    assert response.parameters["batch_norm_mode"].string_param == "transductive"
    assert {output.name: list(output.shape) for output in response.outputs} == {
        "probabilities": [3, 3],
        "labels": [3, 2],
    }


@pytest.mark.parametrize("kind", ["FP32", "UINT8", "BYTES typed"])
@pytest.mark.parametrize("count", [1, 20])
def test_an_encoder_gives_embeddings(stub: GRPCInferenceServiceStub, kind: str, count: int) -> None:
    images = pixels(count, side=8)
    pooled = (images / 255).reshape(count, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(count, 16)

    response = stub.ModelInfer(request_of("encoded", kind, images), timeout=30)

    np.testing.assert_allclose(numbers(response, "embedding"), pooled, atol=1e-5, rtol=0)
    assert (response.model_name, response.model_version) == ("encoded", "1")


def test_metadata_tells_what_to_send(
    stub: GRPCInferenceServiceStub, adapted: wire.AdaptedModel, encoder_bundle: Bundle
) -> None:
    plain, encoder, model = (
        stub.ModelMetadata(oip.ModelMetadataRequest(name=name), timeout=30)
        for name in ("tiny", "encoded", adapted.id)
    )

    (images,) = model.inputs
    assert (images.name, images.datatype) == ("images", "UINT8")
    assert list(images.shape) == [-1, -1, -1, 1]
    assert (model.name, list(model.versions), model.platform) == (adapted.id, ["1"], "onnx_onnxv1")
    assert [(each.name, each.datatype, list(each.shape)) for each in model.outputs] == [
        ("probabilities", "FP32", [-1, 3]),
        ("labels", "BYTES", [-1]),
    ]
    assert model.properties["bundle_digest"] == adapted.bundle_digest
    assert model.properties["way"] == "3"
    assert json.loads(model.properties["class_names"]) == ["a", "b", "c"]
    assert model.properties["expire_time"].endswith("+00:00")
    assert list(plain.outputs) == []
    assert [(each.name, list(each.shape)) for each in encoder.outputs] == [("embedding", [-1, 16])]
    assert encoder.properties["encoder_digest"] == encoder_bundle.encoder_digest
    assert encoder.properties["prepared_shape"] == "[1, 8, 8]"


def test_readiness_is_that_of_the_model(
    stub: GRPCInferenceServiceStub, native: AdaptationServiceStub, adapted: wire.AdaptedModel
) -> None:
    def ready(name: str, version: str = "") -> bool:
        request = oip.ModelReadyRequest(name=name, version=version)
        return stub.ModelReady(request, timeout=30).ready

    images = wire.Images(tensor=wire.Tensor(datatype="FP32", shape=[2, 1, 4, 4], data=bytes(128)))
    support = wire.SupportSet(images=images, class_indices=[0, 1], class_names="ab")
    asked = wire.AdaptRequest(model="tiny", support_set=support)
    deleted = native.Adapt(asked, timeout=60).adapted_model.id
    before = ready(deleted)
    native.DeleteAdaptedModel(wire.DeleteAdaptedModelRequest(adapted_model=deleted), timeout=30)

    assert before
    assert all(map(ready, ("tiny", "tiny@1", "encoded")))
    assert ready("tiny", "1")
    assert [ready(adapted.id), ready(adapted.id, "1")] == [True] * 2
    assert not any(map(ready, (deleted, "other", "am-x", "")))
    assert not any(ready(name, "2") for name in (adapted.id, "tiny"))


def test_an_initialization_is_to_be_adapted_first(
    stub: GRPCInferenceServiceStub, refusal: Make
) -> None:
    refused = refusal(lambda: stub.ModelInfer(request_of("tiny", "UINT8", pixels()), timeout=30))

    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ADAPT_FIRST")


def test_models_that_are_not_there(stub: GRPCInferenceServiceStub, refusal: Make) -> None:
    for name, reason in (
        ("other", "MODEL_NOT_FOUND"),
        ("am-x", "MODEL_NOT_FOUND"),
        ("am-" + "a" * 26, "ADAPTED_MODEL_NOT_FOUND"),
    ):
        request, asked = request_of(name, "UINT8", pixels()), oip.ModelMetadataRequest(name=name)
        for call in (
            lambda request=request: stub.ModelInfer(request, timeout=30),
            lambda asked=asked: stub.ModelMetadata(asked, timeout=30),
        ):
            refused = refusal(call)
            assert (refused.code, refused.reason) == ("NOT_FOUND", reason)


def test_models_of_others_are_not_there(
    stub: GRPCInferenceServiceStub, monkeypatch: pytest.MonkeyPatch, refusal: Make
) -> None:
    """A tenant may be limited to some models; the server runs in this process."""
    monkeypatch.setattr(Quotas, "limits", Limits(models=("tiny",)))
    request = request_of("encoded", "UINT8", pixels(side=8))

    refused = refusal(lambda: stub.ModelInfer(request, timeout=30))
    ready = stub.ModelReady(oip.ModelReadyRequest(name="encoded"), timeout=30).ready

    assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "expected one of tiny" in refused.text
    assert not ready


def test_all_violations_have_the_names_of_this_protocol(
    stub: GRPCInferenceServiceStub, adapted: wire.AdaptedModel, refusal: Make
) -> None:
    def found(request: oip.ModelInferRequest) -> set[str]:
        return set(refusal(lambda: stub.ModelInfer(request, timeout=30)).violations)

    bad = request_of(adapted.id, "UINT8", pixels(), id="x" * 257)
    bad.inputs[0].name = "pictures"
    bad.outputs.add(name="embedding")
    bad.parameters["priority"].int64_param = 1
    cut = request_of(adapted.id, "BYTES", pixels())
    cut.raw_input_contents[0] = b"\4\0\0\0none" * 3
    short = request_of(adapted.id, "UINT8", pixels())
    short.raw_input_contents[0] = b"x"
    large = request_of(adapted.id, "FP32", pixels())
    large.inputs[0].shape[:] = [3, 1, 4, 5]
    many = request_of(adapted.id, "UINT8", pixels(MOST_IMAGES + 1))
    mode = request_of(adapted.id, "UINT8", pixels())
    mode.parameters["batch_norm_mode"].string_param = "stored"
    mode.parameters["reject_below"].double_param = 0.5
    embedded = request_of("encoded", "UINT8", pixels())
    embedded.parameters["top_k"].int64_param = 1
    embedded.outputs.add(name="labels")

    assert found(bad) == {"id", "inputs[0].name", "outputs[0].name", "parameters[priority]"}
    assert found(cut) == {f"inputs[0].contents[{index}]" for index in range(3)}
    assert found(short) == {"raw_input_contents[0]"}
    assert found(large) == {"raw_input_contents[0]"}
    assert found(many) == {"inputs[0]"}
    assert found(mode) == {"parameters[batch_norm_mode]", "parameters[reject_below]"}
    assert found(embedded) == {"parameters[top_k]", "outputs[0].name"}
    assert found(request_of(adapted.id, "UINT8", pixels(), model_version="2")) == {"model_version"}
    assert found(request_of("encoded", "UINT8", pixels(MOST_IMAGES + 1))) == {"inputs[0]"}
    assert found(request_of("encoded", "UINT8", pixels(1001))) == {"inputs[0].shape"}
    assert found(oip.ModelInferRequest(model_name="encoded")) == {"inputs"}


def test_methods_of_other_servers_are_unknown(channel: grpc.Channel, refusal: Make) -> None:
    """Triton's extensions: a client hears that they are not there."""
    for method in ("ModelConfig", "ModelStatistics", "RepositoryIndex"):
        call = channel.unary_unary(f"/{SERVICE}/{method}", bytes, bytes)

        refused = refusal(lambda call=call: call(b"", timeout=30))

        assert (refused.code, refused.reason) == ("UNIMPLEMENTED", "METHOD_NOT_FOUND")


def test_typed_contents_may_be_many_numbers(
    stub: GRPCInferenceServiceStub, adapted: wire.AdaptedModel, refusal: Make
) -> None:
    """More than other messages may have; those beyond are refused before they are parsed."""
    large = request_of(adapted.id, "UINT8 typed", pixels(2, side=420))
    response = stub.ModelInfer(large, timeout=30)
    packed = b"\x22\x80\x80\x80\x04" + bytes(2**23)  # a tag, a length, zeros
    large.inputs[0].contents.CopyFrom(oip.InferTensorContents.FromString(packed))

    assert list(response.outputs[0].shape) == [2, 3]
    described = refusal(lambda: stub.ModelInfer(large, timeout=30)).violations["request"]
    assert described.endswith("send fewer at a time, or as raw contents")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    where=st.integers(0, 10**6), what=st.binary(min_size=1, max_size=8), cut=st.integers(0, 10**6)
)
def test_changed_bytes_are_no_failure(
    channel: grpc.Channel, adapted: wire.AdaptedModel, where: int, what: bytes, cut: int
) -> None:
    """A good request with changed bytes is answered or refused, never INTERNAL."""
    kind = KINDS[where % len(KINDS)]
    content = bytearray(request_of(adapted.id, kind, pixels(2), id="a").SerializeToString())
    start = where % len(content)
    content[start : start + len(what)] = what
    if cut % 4 == 0:
        del content[cut % len(content) :]

    call = channel.unary_unary(f"/{SERVICE}/ModelInfer", bytes, bytes)
    try:
        call(bytes(content), timeout=30)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # type: ignore[attr-defined]  # an error of a call
