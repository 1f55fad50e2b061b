from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status
from PIL import Image

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]

DIVERGE = 902
NOT_FINITE = 903


def refusal(call: Callable[[], object]) -> tuple[str, str, dict[str, Any]]:
    """Return code, reason and the details by name of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    details = {}
    for packed in status.details:
        name = packed.TypeName().removeprefix("google.rpc.")
        message = getattr(details_pb2, name)()
        assert packed.Unpack(message)
        assert name not in details
        details[name] = message
    info = details["ErrorInfo"]
    assert info.domain == "kshot"
    assert "Traceback" not in status.message
    return error.code().name, info.reason, details


def violated(call: Callable[[], object]) -> dict[str, str]:
    """Return the violations of a call that must be refused."""
    code, reason, details = refusal(call)
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    return {item.field: item.description for item in details["BadRequest"].field_violations}


def adapt(stub: AdaptationServiceStub, request: wire.AdaptRequest) -> Callable[[], object]:
    return lambda: stub.Adapt(request, timeout=30)


@pytest.fixture(autouse=True)
def next_request_works(stub: AdaptationServiceStub, adapt_request: Make) -> Iterator[None]:
    """After whatever a test sends, a good request is answered."""
    yield
    assert stub.Adapt(adapt_request(), timeout=30).adapted_model.id


def encoded(*items: bytes) -> wire.Images:
    return wire.Images(encoded=wire.EncodedImages(items=items))


def pixels(array: np.ndarray[Any, Any], datatype: str = "FP32") -> wire.Images:
    return wire.Images(
        tensor=wire.Tensor(datatype=datatype, shape=array.shape, data=array.tobytes())
    )


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_empty_request_is_refused(stub: AdaptationServiceStub) -> None:
    assert list(violated(adapt(stub, wire.AdaptRequest()))) == ["model"]


def test_an_unknown_model_is_not_found(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    request = adapt_request()
    request.model = "other"

    code, reason, details = refusal(adapt(stub, request))

    assert (code, reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert details["ResourceInfo"].resource_name == "other"


def test_all_violations_are_listed(stub: AdaptationServiceStub) -> None:
    request = wire.AdaptRequest(
        model="tiny",
        support_set=wire.SupportSet(
            images=encoded(b"no image", png(4, 4)),
            class_indices=[0, 5, 0],
            class_names=["a", "a", " ", "b" * 257],
        ),
        options=wire.AdaptOptions(
            step_count=0,
            learning_rate=-1,
            batch_size=3,
            seed=-1,
            preconditioner=99,  # type: ignore[arg-type]  # not a value of the enum
        ),
    )
    request.options.ttl.FromSeconds(10**9)

    found = violated(adapt(stub, request))

    assert set(found) == {
        "options.preconditioner",
        "support_set.class_names[1]",
        "support_set.class_names[2]",
        "support_set.class_names[3]",
        "support_set.class_indices",
        "support_set.class_indices[1]",
        "options.step_count",
        "options.seed",
        "options.learning_rate",
        "options.batch_size",
        "options.ttl",
        "support_set.images.encoded.items[0]",
    }
    assert found["options.step_count"] == "got 0, wanted 1 to 100"
    assert found["options.batch_size"] == "got 3, wanted one of 5, 10"


SUPPORT_SETS = {
    "no example": (
        wire.SupportSet(images=encoded(), class_names=["a", "b"]),
        ["support_set.class_names[0]", "support_set.class_names[1]", "support_set.images"],
    ),
    "no images": (
        wire.SupportSet(class_indices=[0, 1], class_names=["a", "b"]),
        ["support_set.images"],
    ),
    "one class": (
        wire.SupportSet(images=encoded(png(4, 4)), class_indices=[0], class_names=["a"]),
        ["support_set.class_names"],
    ),
    "a class without an example": (
        wire.SupportSet(
            images=encoded(png(4, 4), png(4, 4)),
            class_indices=[0, 2],
            class_names=["a", "b", "c"],
        ),
        ["support_set.class_names[1]"],
    ),
    "fewer labels than examples": (
        wire.SupportSet(
            images=encoded(png(4, 4), png(4, 4), png(4, 4)),
            class_indices=[0, 1],
            class_names=["a", "b"],
        ),
        ["support_set.class_indices"],
    ),
    "too many classes": (
        wire.SupportSet(
            images=encoded(*[png(4, 4)] * 21),
            class_indices=range(21),
            class_names=map(str, range(21)),
        ),
        ["support_set.class_names"],
    ),
    "too many examples": (
        wire.SupportSet(
            images=encoded(*[b"x"] * 401),
            class_indices=[0, 1] + [0] * 399,
            class_names=["a", "b"],
        ),
        ["support_set.images"],
    ),
    "a decompression bomb": (
        wire.SupportSet(
            images=encoded(png(4, 4), png(5000, 5000)),
            class_indices=[0, 1],
            class_names=["a", "b"],
        ),
        ["support_set.images.encoded.items[1]"],
    ),
}


@pytest.mark.parametrize("name", SUPPORT_SETS)
def test_support_sets_that_do_not_fit(stub: AdaptationServiceStub, name: str) -> None:
    support_set, fields = SUPPORT_SETS[name]

    found = violated(adapt(stub, wire.AdaptRequest(model="tiny", support_set=support_set)))

    assert list(found) == fields


TENSORS = {
    "a wrong shape": (pixels(np.zeros((2, 1, 4, 5), np.float32)), "tensor"),
    "too few axes": (pixels(np.zeros((2, 4), np.uint8), "UINT8"), "tensor.shape"),
    "too many axes": (pixels(np.zeros((2, 1, 1, 4, 4), np.float32)), "tensor.shape"),
    "two channels": (pixels(np.zeros((2, 4, 4, 2), np.uint8), "UINT8"), "tensor"),
    "no pixels": (pixels(np.zeros((2, 0, 4), np.uint8), "UINT8"), "tensor.shape"),
    "another type": (pixels(np.zeros((2, 1, 4, 4), np.float64), "FP64"), "tensor.datatype"),
    "infinity": (pixels(np.full((2, 1, 4, 4), np.inf, np.float32)), "tensor"),
    "not a number": (pixels(np.full((2, 1, 4, 4), np.nan, np.float32)), "tensor"),
    "too few bytes": (
        wire.Images(tensor=wire.Tensor(datatype="FP32", shape=[2, 1, 4, 4], data=b"1234")),
        "tensor.data",
    ),
    "a shape whose size overflows": (
        wire.Images(tensor=wire.Tensor(datatype="UINT8", shape=[2, 2**62, 2**62], data=b"")),
        "tensor.data",
    ),
    "a negative length": (
        wire.Images(tensor=wire.Tensor(datatype="UINT8", shape=[2, -4, -4], data=b"x" * 32)),
        "tensor.shape",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(stub: AdaptationServiceStub, name: str) -> None:
    images, field = TENSORS[name]
    support_set = wire.SupportSet(images=images, class_indices=[0, 1], class_names=["a", "b"])

    found = violated(adapt(stub, wire.AdaptRequest(model="tiny", support_set=support_set)))

    assert {name.removeprefix("support_set.images.") for name in found} == {field}


def test_a_long_list_of_violations_fits_into_the_trailers(stub: AdaptationServiceStub) -> None:
    request = wire.AdaptRequest(
        model="tiny",
        support_set=wire.SupportSet(
            images=encoded(*[b"\xff"] * 400),
            class_indices=[-(2**31)] * 100_000,
            class_names=["\N{SNOWMAN}" * 100] * 20,
        ),
    )

    found = violated(adapt(stub, request))

    assert any("more violations" in description for description in found.values())


@pytest.mark.parametrize("seed", [DIVERGE, NOT_FINITE])
def test_a_loop_that_diverges_is_refused(
    stub: AdaptationServiceStub, adapt_request: Make, seed: int
) -> None:
    code, reason, details = refusal(adapt(stub, adapt_request(seed=seed)))

    assert (code, reason) == ("INVALID_ARGUMENT", "ADAPTATION_DIVERGED")
    assert details["BadRequest"].field_violations[0].field == "options.learning_rate"


def test_queries_that_do_not_fit(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id

    def predict(**fields: Any) -> dict[str, str]:  # noqa: ANN401 -- any field of the message
        request = wire.PredictRequest(adapted_model=model, **fields)
        return violated(lambda: stub.Predict(request, timeout=30))

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


def test_logits_that_are_not_finite_are_no_answer(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    huge = np.full((2, 1, 4, 4), 3e38, np.float32)
    huge[0] = 0
    request = wire.PredictRequest(adapted_model=model, queries=pixels(huge))

    code, reason, details = refusal(lambda: stub.Predict(request, timeout=30))

    assert (code, reason) == ("FAILED_PRECONDITION", "NON_FINITE_LOGITS")
    assert details["ErrorInfo"].metadata["query"] == "1"
    assert "PreconditionFailure" in details


def test_adapt_and_predict_lists_what_is_wrong_with_both(
    stub: AdaptationServiceStub, support_set: Make
) -> None:
    request = wire.AdaptAndPredictRequest(
        model="tiny", support_set=support_set(), queries=encoded(b"x"), top_k=-1
    )
    request.options.ttl.FromSeconds(5)
    request.options.step_count = 101

    found = violated(lambda: stub.AdaptAndPredict(request, timeout=30))

    assert set(found) == {"top_k", "options.ttl", "options.step_count", "queries.encoded.items[0]"}


@pytest.mark.parametrize(
    "adapted_model", ["", "x", "../../etc/passwd", "am-" + "A" * 26, "am-" + "a" * 65536, "a/b"]
)
def test_malformed_ids_are_refused(stub: AdaptationServiceStub, adapted_model: str) -> None:
    calls = (
        lambda: stub.GetAdaptedModel(
            wire.GetAdaptedModelRequest(adapted_model=adapted_model), timeout=30
        ),
        lambda: stub.DeleteAdaptedModel(
            wire.DeleteAdaptedModelRequest(adapted_model=adapted_model), timeout=30
        ),
        lambda: stub.Predict(wire.PredictRequest(adapted_model=adapted_model), timeout=30),
        lambda: list(
            stub.ExportAdaptedModel(
                wire.ExportAdaptedModelRequest(adapted_model=adapted_model), timeout=30
            )
        ),
    )

    for call in calls:
        assert set(violated(call)) == {"adapted_model"}


def test_unknown_and_deleted_ids_are_not_found(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    model = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    stub.DeleteAdaptedModel(wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30)

    for adapted_model, wanted in (
        ("am-" + "a" * 26, "ADAPTED_MODEL_NOT_FOUND"),
        (model, "ADAPTED_MODEL_DELETED"),
    ):
        request = wire.PredictRequest(adapted_model=adapted_model, queries=queries())
        code, reason, details = refusal(partial(stub.Predict, request, timeout=30))
        assert (code, reason) == ("NOT_FOUND", wanted)
        assert details["ResourceInfo"].resource_name == adapted_model


def test_pages_that_do_not_exist_are_refused(stub: AdaptationServiceStub) -> None:
    def page(**fields: Any) -> dict[str, str]:  # noqa: ANN401 -- any field of the message
        request = wire.ListAdaptedModelsRequest(**fields)
        return violated(lambda: stub.ListAdaptedModels(request, timeout=30))

    assert set(page(page_size=-1)) == {"page_size"}
    assert set(page(page_token="../x")) == {"page_token"}  # noqa: S106 -- a token of pages


def test_a_message_above_the_cap_is_refused(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request()
    request.support_set.images.CopyFrom(encoded(bytes(17 * 2**20)))

    with pytest.raises(grpc.RpcError) as caught:
        stub.Adapt(request, timeout=30)

    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
