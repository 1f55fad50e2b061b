"""Calls that do not go on: their message does not come, or nobody reads their answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kshot.server.rpc import calls, ending
from kshot.server.server import SERVICE
from kshot.v1 import adaptation_pb2 as wire
from tests.patience import with_more_time
from tests.server.front.raw_http2 import DATA, HEADERS, RESET, RawClient

Make = Callable[..., Any]
PREDICT = f"/{SERVICE}/Predict"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def healthy(channel: grpc.Channel) -> bool:
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_an_answer_that_nobody_reads_ends(
    start_server: Make, adapt_request: Make, queries: Make, refusal: Make
) -> None:
    """It holds its place until it ends, and the server answers others then."""

    def ask(seconds: float) -> None:
        with start_server(answer_timeout=seconds, max_predict_queue=1) as server:
            made = server.stub.Adapt(adapt_request(), timeout=30)
            request = wire.PredictRequest(adapted_model=made.adapted_model.id, queries=queries())
            with RawClient(server.address, window=0) as raw:
                stream = raw.open(PREDICT, request.SerializeToString())
                raw.wait(HEADERS, stream)  # they come with the answer, for which is no window
                refused = refusal(lambda: server.stub.Predict(request, timeout=30))
                raw.wait_end(stream)
                answered = server.stub.Predict(request, timeout=30)

        assert (refused.code, refused.reason) == ("UNAVAILABLE", "QUEUE_FULL")
        assert len(answered.predictions) == 4

    with_more_time(ask, 1.0)


def test_an_export_that_nobody_reads_ends(
    start_server: Make, adapt_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def end_call(handler: asyncio.Task[Any]) -> bool:
        handler.get_loop().call_soon(ended.set)
        return ending.end_call(handler)

    monkeypatch.setattr(calls, "end_call", end_call)
    with start_server(answer_timeout=0.2) as server:
        made = server.stub.Adapt(adapt_request(), timeout=30)
        request = wire.ExportAdaptedModelRequest(adapted_model=made.adapted_model.id)
        with RawClient(server.address, window=0) as raw:
            stream = raw.open(f"/{SERVICE}/ExportAdaptedModel", request.SerializeToString())
            assert ended.wait(30)
            assert healthy(server.channel)  # gRPC forgets a call when the next one comes
            raw.wait_end(stream)


@pytest.mark.parametrize("path", [PREDICT, CHECK])
def test_a_call_without_its_message_ends(start_server: Make, path: str) -> None:
    with start_server(message_timeout=0.2) as server, RawClient(server.address) as raw:
        stream = raw.open(path, end=False)
        raw.wait_end(stream)
        raw.wait(RESET, stream)


def test_calls_without_messages_make_way(
    start_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one method do not keep others out, and the oldest end."""
    monkeypatch.setattr(calls, "_MOST_UNREAD", 3)
    with start_server() as server, RawClient(server.address) as raw:
        streams = [raw.open(PREDICT, end=False) for _ in range(5)]
        streams += [raw.open(CHECK, end=False) for _ in range(5)]
        for stream in (*streams[:2], *streams[5:7]):
            raw.wait_end(stream)
        assert healthy(server.channel)
        server.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)


def test_slow_messages_are_bounded(start_server: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may grow to the greatest size: the connection with the most gives up its oldest."""
    monkeypatch.setattr(calls, "_SLOW_LOOKS", 0)
    monkeypatch.setattr(calls, "_SLOW_BYTES", 8 * 2**20)
    with (
        start_server(max_message_bytes=2**20) as server,
        RawClient(server.address) as raw,
        RawClient(server.address) as other,
    ):
        quiet = other.open(PREDICT, end=False)
        streams = [raw.open(PREDICT, end=False) for _ in range(9)]
        for stream in streams[:2]:
            raw.wait_end(stream)
        other.send(b"\0\0\5" + bytes([DATA, 1]) + quiet.to_bytes(4) + bytes(5))
        raw_quiet = other.wait_end(quiet)
        assert raw_quiet


def test_a_connection_may_have_so_many_calls(
    start_server: Make, adapt_request: Make, wait_arrival: Make, refusal: Make
) -> None:
    """Health is counted apart, and so are other connections."""
    with start_server(max_connection_calls=2) as server:
        hanging = []
        for _ in range(2):
            hanging.append(server.stub.Adapt.future(adapt_request(seed=901), timeout=60))
            wait_arrival()
        refused = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=30))
        assert healthy(server.channel)
        with grpc.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            call = other.unary_unary(f"/{SERVICE}/GetCapabilities", bytes, bytes)
            assert call(b"", timeout=30)
        for each in hanging:
            each.cancel()

    assert (refused.code, refused.reason) == ("UNAVAILABLE", "TOO_MANY_CALLS")


def test_a_watcher_that_does_not_read_holds_up_nobody(start_server: Make) -> None:
    """Neither other watchers nor the end of the server."""
    with start_server() as server, RawClient(server.address, window=0) as raw:
        raw.wait(HEADERS, raw.open(WATCH, b""))
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        states = [next(watch).status]
        server.stop()
        states.append(next(watch).status)
        server.hurry()
        server.join()

    serving = health_pb2.HealthCheckResponse
    assert states == [serving.SERVING, serving.NOT_SERVING]
