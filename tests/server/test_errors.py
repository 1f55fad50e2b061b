from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from kshot.client.errors import BY_REASON, KshotError, error_class
from kshot.server import errors
from kshot.server.errors import RequestError
from kshot.server.rpc.status import DETAILS_TRAILER, trailers_of

PROTO = Path(__file__).parents[2] / "proto" / "kshot" / "v1" / "adaptation.proto"
EXAMPLES: list[RequestError] = [
    errors.InvalidRequest.about("f", "expected 2, got 1"),
    errors.AdaptationDiverged(3, 0.5),
    errors.ModelNotFound("x", ["y"]),
    errors.AdaptedModelNotFound("am-x"),
    errors.AdaptedModelExpired("am-x", 0.0),
    errors.AdaptedModelDeleted("am-x"),
    errors.ModelChanged("am-x", "y"),
    errors.ImportNotServed("y", "b" * 64),
    errors.NonFiniteLogits(2),
    errors.SupportNotKept("am-x", "it cannot be revised"),
    errors.AdaptFirst("y"),
    errors.EtagMismatch("am-x", "2"),
    errors.RequestIdReused(),
    errors.Unauthenticated(),
    errors.PermissionDenied("expected a key with role admin"),
    errors.QuotaExceeded("models", 7, "delete some"),
    errors.StoreIsFull("models", 7),
    errors.StoreIsFull("disk"),
    errors.DeviceMemoryFull(),
    errors.QueueFull(),
    errors.TooManyCalls(),
    errors.TooManyFiles(),
    errors.EngineUnavailable(),
    errors.StoreUnavailable(),
    errors.ShuttingDown(),
    errors.DeadlineExceeded(),
    errors.CallCancelled(),
    errors.AdaptedModelDamaged("am-x"),
    errors.MethodNotFound(),
    errors.ServiceUnknown(),
    errors.InternalError("abc"),
]


def leaves(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for child in kind.__subclasses__():
        if child is not errors.Unavailable:
            yield child
        yield from leaves(child)


def details_of(error: RequestError) -> list[str]:
    content = dict(trailers_of(error, "r"))[DETAILS_TRAILER]
    assert isinstance(content, bytes)
    return [detail.TypeName() for detail in status_pb2.Status.FromString(content).details]


def test_every_error_has_an_example_here() -> None:
    assert {type(error) for error in EXAMPLES} == set(leaves(RequestError))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_has_a_message(error: RequestError) -> None:
    """Its own, or the `sentence` of its class; the base has none."""
    assert str(error)


def test_a_model_that_ships_names_the_option_that_serves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = ["drawings"]

    assert str(errors.ModelNotFound("cifar-fs", served)).endswith(
        "expected one of drawings; serve it with `--bundle cifar-fs`"
    )
    assert str(errors.ModelNotFound("omniglot@1", served)).endswith("`--bundle omniglot@1`")
    assert str(errors.ModelNotFound("drawings@2", served)).endswith("leave out the version")
    assert str(errors.ModelNotFound("cifar", served)).endswith("expected one of drawings")
    monkeypatch.setattr(errors, "known_names", lambda: ())
    assert "`kshot bundle build photos` builds it" in str(errors.ModelNotFound("photos", served))


def test_a_barred_caller_is_not_told_to_serve_the_model() -> None:
    barred = errors.ModelNotFound("cifar-fs", ["drawings"], barred=True)

    assert str(barred) == "model 'cifar-fs' is not served; expected one of drawings"
    assert str(errors.ModelNotFound("", ["drawings"])) == (
        "no model is named; expected one of drawings"
    )
    assert str(errors.ModelNotFound("", [])) == "this caller may use no model"


def test_the_proto_documents_every_reason() -> None:
    rows = re.findall(r"^// \| ([A-Z_]+) +\| ([A-Z_]+) +\| (\w*)", PROTO.read_text(), re.MULTILINE)

    assert set(rows) == {
        (error.code.name, error.reason, "".join(details_of(error)[1:]).removeprefix("google.rpc."))
        for error in EXAMPLES
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_travel_with_one_error_info(error: RequestError) -> None:
    trailers = dict(trailers_of(error, "r"))
    content = trailers[DETAILS_TRAILER]
    assert isinstance(content, bytes)
    status = status_pb2.Status.FromString(content)
    info = details_pb2.ErrorInfo()

    assert details_of(error).count("google.rpc.ErrorInfo") == 1
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("kshot", error.reason)
    assert status.message == str(error)
    assert ("grpc-retry-pushback-ms" in trailers) == (error.code is grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_client_has_a_class_for_every_error(error: RequestError) -> None:
    assert error_class(error.code, error.reason) is not KshotError
    assert error.reason in BY_REASON or error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
