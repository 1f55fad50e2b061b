from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Refuse = Callable[[Callable[[], object]], Any]

DIVERGE = 902
NOT_FINITE = 903


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


def test_all_that_an_empty_request_lacks_is_listed(
    stub: AdaptationServiceStub, refusal: Refuse
) -> None:
    fields = ["support_set.class_names", "support_set.images"]
    both = wire.AdaptAndPredictRequest()

    assert list(refusal(adapt(stub, wire.AdaptRequest())).violations) == fields
    assert list(refusal(lambda: stub.AdaptAndPredict(both, timeout=30)).violations) == [
        *fields,
        "queries",
    ]


@pytest.mark.parametrize("model", ["", "other"])
def test_what_needs_no_model_is_checked_without_one(
    stub: AdaptationServiceStub, refusal: Refuse, model: str
) -> None:
    support_set = wire.SupportSet(
        images=encoded(png(4, 4), png(4, 4), png(4, 4)),
        class_indices=[0, 9],
        class_names=["a", "b", "a"],
    )
    options = wire.AdaptOptions(
        preconditioner=99,  # type: ignore[arg-type]  # not a value
        durability=3,  # type: ignore[arg-type]  # as above
    )

    found = refusal(
        adapt(stub, wire.AdaptRequest(model=model, support_set=support_set, options=options))
    ).violations

    assert found["options.durability"] == "expected 0 to 2, got the unknown value 3"
    assert set(found) == {
        "options.durability",
        "options.preconditioner",
        "support_set.class_names[1]",
        "support_set.class_names[2]",
        "support_set.class_indices",
        "support_set.class_indices[1]",
    }


def test_an_unknown_model_is_not_found(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Refuse
) -> None:
    request = adapt_request()
    request.model = "other"

    refused = refusal(adapt(stub, request))

    assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert refused.details["ResourceInfo"].resource_name == "other"


def test_all_violations_are_listed(stub: AdaptationServiceStub, refusal: Refuse) -> None:
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

    found = refusal(adapt(stub, request)).violations

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
    assert found["options.step_count"] == "expected 1 to 100 with head trained, got 0"
    assert found["options.batch_size"] == "expected one of 5, 10, got 3"


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
    "no classes": (
        wire.SupportSet(images=encoded(*[png(4, 4)] * 3), class_indices=[0, 1, 2]),
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
            images=encoded(png(4, 4), png(8200, 8200)),
            class_indices=[0, 1],
            class_names=["a", "b"],
        ),
        ["support_set.images.encoded.items[1]"],
    ),
}


@pytest.mark.parametrize("name", SUPPORT_SETS)
def test_support_sets_that_do_not_fit(
    stub: AdaptationServiceStub, name: str, refusal: Refuse
) -> None:
    support_set, fields = SUPPORT_SETS[name]

    found = refusal(
        adapt(stub, wire.AdaptRequest(model="tiny", support_set=support_set))
    ).violations

    assert list(found) == fields


TENSORS = {
    "a wrong shape": (pixels(np.zeros((2, 1, 4, 5), np.float32)), "tensor"),
    "too few axes": (pixels(np.zeros((2, 4), np.uint8), "UINT8"), "tensor.shape"),
    "too many axes": (pixels(np.zeros((2, 1, 1, 4, 4), np.float32)), "tensor.shape"),
    "two channels": (pixels(np.zeros((2, 4, 4, 2), np.uint8), "UINT8"), "tensor"),
    "one image": (pixels(np.zeros((2, 8, 3), np.uint8), "UINT8"), "tensor.shape"),
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
def test_tensors_that_do_not_fit(stub: AdaptationServiceStub, name: str, refusal: Refuse) -> None:
    images, field = TENSORS[name]
    support_set = wire.SupportSet(images=images, class_indices=[0, 1], class_names=["a", "b"])

    found = refusal(
        adapt(stub, wire.AdaptRequest(model="tiny", support_set=support_set))
    ).violations

    assert {name.removeprefix("support_set.images.") for name in found} == {field}


def test_many_violations_fit_into_the_trailers(
    stub: AdaptationServiceStub, refusal: Refuse
) -> None:
    request = wire.AdaptRequest(
        model="tiny",
        support_set=wire.SupportSet(
            images=encoded(*[b"\xff"] * 400),
            class_indices=[-(2**31)] * 100_000,
            class_names=["\N{SNOWMAN}" * 100] * 20,
        ),
    )

    found = refusal(adapt(stub, request)).violations

    assert any("further violations" in description for description in found.values())


@pytest.mark.parametrize("seed", [DIVERGE, NOT_FINITE])
def test_a_loop_that_diverges_is_refused(
    stub: AdaptationServiceStub, adapt_request: Make, seed: int, refusal: Refuse
) -> None:
    refused = refusal(adapt(stub, adapt_request(seed=seed)))

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "ADAPTATION_DIVERGED")
    assert refused.details["BadRequest"].field_violations[0].field == "options.learning_rate"
