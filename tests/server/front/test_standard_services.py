"""Health and reflection begin and end as all calls do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kshot.server.server import ADMIN_SERVICE, INFERENCE_SERVICE, SERVICE
from tests.server.front.raw_http2 import RawClient

Make = Callable[..., Any]
HEALTH = "/grpc.health.v1.Health"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def call(channel: grpc.Channel, path: str, content: bytes) -> list[bytes]:
    if path == REFLECT:
        return list(channel.stream_stream(path, bytes, bytes)(iter([content]), timeout=30))
    if path.endswith("Watch"):
        return [next(channel.unary_stream(path, bytes, bytes)(content, timeout=30))]
    return [channel.unary_unary(path, bytes, bytes)(content, timeout=30)]


@pytest.mark.parametrize("path", [f"{HEALTH}/Check", f"{HEALTH}/Watch", f"{HEALTH}/List", REFLECT])
@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x7f", b"\x0a" + b"x" * 5000], ids=len)
def test_bytes_that_are_no_message_are_refused(
    server: Any,  # noqa: ANN401 -- a running server
    path: str,
    content: bytes,
    refusal: Make,
) -> None:
    refused = refusal(lambda: call(server.channel, path, content))

    assert set(refused.violations) == {"request"}
    assert "x-kshot-request-id" in refused.trailers


def test_a_service_that_is_not_there_has_a_reason(server: Any, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    stub = health_pb2_grpc.HealthStub(server.channel)

    refused = refusal(lambda: stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=30))
    watched = next(stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=30))

    assert (refused.code, refused.reason) == ("NOT_FOUND", "SERVICE_UNKNOWN")
    assert watched.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_all_services_are_listed(server: Any) -> None:  # noqa: ANN401 -- a running server
    listed = health_pb2_grpc.HealthStub(server.channel).List(
        health_pb2.HealthListRequest(), timeout=30
    )

    serving = health_pb2.HealthCheckResponse.SERVING
    assert {name: item.status for name, item in listed.statuses.items()} == {
        "": serving,
        SERVICE: serving,
        ADMIN_SERVICE: serving,
        INFERENCE_SERVICE: serving,
    }


def test_reflection_answers_several_questions(server: Any) -> None:  # noqa: ANN401 -- a running server
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="x\0y"),
    ]

    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield from asked

    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    names, file, none = stub.ServerReflectionInfo(questions(), timeout=30)

    services = {service.name for service in names.list_services_response.service}
    assert {SERVICE, INFERENCE_SERVICE} <= services
    assert file.file_descriptor_response.file_descriptor_proto
    assert none.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("path", [f"/{SERVICE}/Predict", f"{HEALTH}/Check", REFLECT])
def test_a_call_that_ends_without_a_message_is_refused(
    server: Any,  # noqa: ANN401 -- a running server
    path: str,
    refusal: Make,
) -> None:
    def ask() -> None:
        list(server.channel.stream_stream(path, bytes, bytes)(iter(()), timeout=30))

    assert refusal(ask).violations == {"request": "expected a message, got none"}


def test_a_second_message_is_not_read(server: Any) -> None:  # noqa: ANN401 -- a running server
    with RawClient(server.address, window=2**16) as raw:
        raw.wait_end(raw.open(f"{HEALTH}/Check", b"", b"", b"\xff"))
