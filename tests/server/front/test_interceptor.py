from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.bundle.signals.json_log import JsonFormatter
from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.server.event_log import LOGGER, short_id
from kshot.server.server import INFERENCE_SERVICE, SERVICE
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
METHODS = wire.DESCRIPTOR.services_by_name["AdaptationService"].methods
INFERENCE_PATHS = [
    f"/{INFERENCE_SERVICE}/{method.name}"
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
]


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the server logs, read from its lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    LOGGER.setLevel(level)
    LOGGER.removeHandler(handler)


def status_of(error: Any) -> tuple[str, str, str]:  # noqa: ANN401 -- grpc's error is also a call
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code().name, info.reason, dict(error.trailing_metadata())["x-kshot-request-id"]


def send(channel: grpc.Channel, method: str, content: bytes) -> None:
    """Send raw bytes; raise `grpc.RpcError` when they are refused."""
    path = method if "/" in method else f"/{SERVICE}/{method}"
    if method == "ExportAdaptedModel":
        list(channel.unary_stream(path, bytes, bytes)(content, timeout=30))
    else:
        channel.unary_unary(path, bytes, bytes)(content, timeout=30)


def test_a_log_line_names_the_request(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    response, call = server.stub.Adapt.with_call(adapt_request(), timeout=30)

    (line,) = lines()
    assert line["event"] == "request"
    assert line["method"] == "Adapt"
    assert line["code"] == "OK"
    assert "reason" not in line
    assert line["model"] == "tiny"
    assert line["adapted_model"] == short_id(response.adapted_model.id)
    assert line["duration_ms"] > 0
    assert set(line["timing_ms"]) == {"queue", "decode", "compute", "store"}
    assert line["request_id"] == dict(call.trailing_metadata())["x-kshot-request-id"]
    assert "class 0" not in json.dumps(line)


def test_a_refused_request_is_logged_with_its_reason(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    request = adapt_request()
    request.support_set.class_names[0] = "a secret " * 100

    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Adapt(request, timeout=30)

    (line,) = lines()
    assert (line["code"], line["reason"], line["request_id"]) == status_of(caught.value)
    assert line["field"] == "support_set.class_names[0]"
    assert "a secret" not in json.dumps(line)


@pytest.mark.parametrize(
    ("timeout", "code"), [(2, "DEADLINE_EXCEEDED"), (None, "CANCELLED"), (1000, "CANCELLED")]
)
def test_a_left_call_is_logged_with_its_reason(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    wait_arrival: Callable[[], str],
    lines: Callable[[], list[dict[str, Any]]],
    timeout: float | None,
    code: str,
) -> None:
    hanging = server.stub.Adapt.future(adapt_request(seed=901), timeout=timeout)
    wait_arrival()
    if code == "CANCELLED":
        hanging.cancel()
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        hanging.result()
    while not lines():  # the server hears of it a moment later; pytest's time limit ends this
        pass

    (line,) = lines()
    assert (line["code"], line["reason"]) == (code, code)


def test_an_unforeseen_error_gets_a_request_id(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Adapt(adapt_request(seed=905), timeout=30)

    code, reason, request_id = status_of(caught.value)
    failure, line = lines()
    assert (code, reason) == ("INTERNAL", "INTERNAL")
    assert failure["event"] == "failure"
    assert "Traceback" in failure["traceback"]
    assert failure["request_id"] == line["request_id"] == request_id
    assert "Traceback" not in str(caught.value)


def test_an_unknown_method_has_a_reason(server: Any) -> None:  # noqa: ANN401 -- a running server
    with pytest.raises(grpc.RpcError) as caught:
        send(server.channel, "Nothing", b"")

    assert status_of(caught.value)[:2] == ("UNIMPLEMENTED", "METHOD_NOT_FOUND")


@pytest.mark.parametrize("method", [*(method.name for method in METHODS), *INFERENCE_PATHS])
def test_bytes_that_are_no_message_are_refused(server: Any, method: str) -> None:  # noqa: ANN401 -- a running server
    for content in (b"\xff", b"\x0a\x7f", b"\xff" * 2**20):
        with pytest.raises(grpc.RpcError) as caught:
            send(server.channel, method, content)
        assert status_of(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(
        ["Adapt", "Predict", "AdaptAndPredict", "GetAdaptedModel", "ListAdaptedModels"]
    ),
    content=st.binary(max_size=200),
)
def test_any_bytes_get_an_answer_that_is_no_failure(
    server: Any,  # noqa: ANN401 -- a running server
    method: str,
    content: bytes,
) -> None:
    try:
        send(server.channel, method, content)
    except grpc.RpcError as error:
        assert status_of(error)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    where=st.integers(0, 10**6), what=st.binary(min_size=1, max_size=8), cut=st.integers(0, 10**6)
)
def test_changed_bytes_are_no_failure(
    server: Any,  # noqa: ANN401 -- a running server
    where: int,
    what: bytes,
    cut: int,
) -> None:
    """A good request with changed bytes is answered or refused, never INTERNAL."""
    support = wire.SupportSet(
        images=wire.Images(
            tensor=wire.Tensor(datatype="FP32", shape=[2, 1, 4, 4], data=bytes(range(128)))
        ),
        class_indices=[0, 1],
        class_names=["a", "b"],
    )
    options = wire.AdaptOptions(step_count=3, learning_rate=0.01, seed=1, head=wire.HEAD_ZERO)
    request = wire.AdaptRequest(model="tiny", support_set=support, options=options)
    content = bytearray(request.SerializeToString())
    start = where % len(content)
    content[start : start + len(what)] = what
    if cut % 4 == 0:
        del content[cut % len(content) :]

    try:
        send(server.channel, "Adapt", bytes(content))
    except grpc.RpcError as error:
        assert status_of(error)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    adapted_model=st.text(max_size=80)
    | st.sampled_from(["..", "/", "am-\0", "am-" + "a" * 25 + "/", "am-../" + "a" * 23])
)
def test_any_text_as_id_is_refused(stub: AdaptationServiceStub, adapted_model: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(wire.PredictRequest(adapted_model=adapted_model), timeout=30)

    assert status_of(caught.value)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")
