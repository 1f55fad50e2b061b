"""What callers see of the engine: its start, its death, its time, its queue, its stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from kshot.server.engine_link.client import EngineClient, EngineTask
from kshot.server.errors import EngineUnavailable, StartError
from kshot.v1 import adaptation_pb2 as wire
from tests.patience import with_more_time

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]

DIE = 900
HANG = 901
PARTIAL = 904
REFUSE = 905
WAIT = 906
NO_MEMORY = 907


def failure(call: Callable[[], object]) -> Any:  # noqa: ANN401 -- grpc's error is also a call
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def reason(error: Any) -> str:  # noqa: ANN401 -- grpc's error is also a call
    info = details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None, error
    assert status.details[0].Unpack(info)
    return str(info.reason)


def assert_retriable(error: Any, wanted: str) -> None:  # noqa: ANN401 -- grpc's error is also a call
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, wanted)
    retry = details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.details[1].Unpack(retry)
    trailers = dict(error.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) == retry.retry_delay.ToMilliseconds() > 0


def adapt_until_it_works(server: Any, request: wire.AdaptRequest) -> wire.AdaptResponse:  # noqa: ANN401 -- a running server
    """Call again as the server says, until the engine is back; pytest's time limit ends it."""
    while True:
        try:
            response: wire.AdaptResponse = server.stub.Adapt(request, timeout=30)
        except grpc.RpcError as error:
            assert_retriable(error, "ENGINE_UNAVAILABLE")
        else:
            return response


def test_a_dying_engine_takes_only_its_adapt(
    start_server: StartServer, adapt_request: Make, queries: Make, wait_arrival: Callable[[], str]
) -> None:
    with start_server() as server, ThreadPoolExecutor() as pool:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        predict = wire.PredictRequest(adapted_model=model, queries=queries())

        dying = pool.submit(server.stub.Adapt, adapt_request(seed=DIE), timeout=30)
        wait_arrival()
        predicted = server.stub.Predict(predict, timeout=30)
        assert_retriable(failure(dying.result), "ENGINE_UNAVAILABLE")
        predicted_after = server.stub.Predict(predict, timeout=30)
        again = adapt_until_it_works(server, adapt_request())

        assert predicted.probabilities == predicted_after.probabilities
        assert again.adapted_model.id


def test_capabilities_say_when_there_is_no_engine(
    start_server: StartServer,
    adapt_request: Make,
    wait_arrival: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with start_server() as server, ThreadPoolExecutor() as pool:
        monkeypatch.setenv("KSHOT_FAKE_ENGINE_START", "fail")
        dying = pool.submit(server.stub.Adapt, adapt_request(seed=DIE), timeout=30)
        wait_arrival()
        failure(dying.result)

        assert_retriable(
            failure(lambda: server.stub.Adapt(adapt_request(), timeout=30)), "ENGINE_UNAVAILABLE"
        )
        # The end of the process is noticed a moment after the end of the call; pytest's time limit
        # ends this.
        while server.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).HasField(
            "engine"
        ):
            pass

        monkeypatch.delenv("KSHOT_FAKE_ENGINE_START")
        assert adapt_until_it_works(server, adapt_request()).adapted_model.id


def test_another_engine_takes_over_at_once(
    start_server: StartServer,
    adapt_request: Make,
    wait_arrival: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each engine dies and starts again by itself."""

    def wait_for_engines(count: int) -> None:
        request = wire.GetCapabilitiesRequest()
        while server.stub.GetCapabilities(request, timeout=30).engine.process_count != count:
            pass  # pytest's time limit ends this

    with start_server(engines=2) as server, ThreadPoolExecutor() as pool:
        wait_for_engines(2)
        monkeypatch.setenv("KSHOT_FAKE_ENGINE_START", "fail")
        dying = pool.submit(server.stub.Adapt, adapt_request(seed=DIE), timeout=30)
        wait_arrival()
        assert_retriable(failure(dying.result), "ENGINE_UNAVAILABLE")

        assert server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id

        wait_for_engines(1)
        monkeypatch.delenv("KSHOT_FAKE_ENGINE_START")
        wait_for_engines(2)


@pytest.mark.parametrize(
    ("start", "message"), [("fail", "exit code 9"), ("other", "other bundles")]
)
def test_a_first_engine_that_fails_ends_the_start(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, start: str, message: str
) -> None:
    monkeypatch.setenv("KSHOT_FAKE_ENGINE_START", start)

    with pytest.raises(StartError, match=message), start_server():
        pass


def test_an_engine_that_cannot_be_run_ends_the_start(start_server: StartServer) -> None:
    with (
        pytest.raises(StartError, match="cannot be started"),
        start_server(engine_command=("/does/not/exist",)),
    ):
        pass


def test_an_engine_that_is_never_ready_ends_the_start(start_server: StartServer) -> None:
    command = (sys.executable, "-c", "import sys; sys.stdin.read()")

    with (
        pytest.raises(StartError, match="not ready within"),
        start_server(engine_command=command, engine_start=0.3),
    ):
        pass


def test_a_deadline_stops_the_adapt(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    arrived: Callable[[float], bool],
) -> None:
    def outlast(seconds: float) -> None:
        failed = failure(lambda: server.stub.Adapt(adapt_request(seed=HANG), timeout=seconds))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert arrived(0)

    with_more_time(outlast, 0.5)
    assert server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id


def test_steps_that_were_done_are_answered_if_allowed(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
) -> None:
    refused = failure(lambda: server.stub.Adapt(adapt_request(seed=PARTIAL), timeout=30))
    response = server.stub.Adapt(adapt_request(seed=PARTIAL, allow_partial=True), timeout=30)
    short = server.stub.Adapt(
        adapt_request(seed=PARTIAL, allow_partial=True, step_count=1), timeout=30
    )

    assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(refused) == "DEADLINE_EXCEEDED"
    assert response.report.stop_reason == wire.STOP_REASON_TIME_BUDGET
    assert response.adapted_model.step_count == len(response.report.support_loss) == 1
    assert response.adapted_model.options.step_count == 10
    # Fewer steps are another adaptation, whatever was asked for.
    assert response.adapted_model.adaptation_digest == short.adapted_model.adaptation_digest


def test_a_caller_that_leaves_frees_its_place(
    start_server: StartServer, adapt_request: Make, wait_arrival: Callable[[], str]
) -> None:
    with start_server(max_adapt_queue=1) as server:
        hanging = server.stub.Adapt.future(adapt_request(seed=HANG))
        wait_arrival()
        assert_retriable(
            failure(lambda: server.stub.Adapt(adapt_request(), timeout=30)), "QUEUE_FULL"
        )
        hanging.cancel()

        while True:
            try:
                assert server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
            except grpc.RpcError as error:
                assert_retriable(error, "QUEUE_FULL")
            else:
                break


def test_callers_that_leave_in_crowds_do_no_harm(
    start_server: StartServer, adapt_request: Make
) -> None:
    with start_server(max_adapt_queue=8) as server:
        for _ in range(20):
            calls = [server.stub.Adapt.future(adapt_request(), timeout=30) for _ in range(8)]
            for call in calls[1:]:
                call.cancel()
            with suppress(grpc.RpcError):  # the queue may still be full of those who left
                calls[0].result()

        while True:
            try:
                assert server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
            except grpc.RpcError as error:
                assert_retriable(error, "QUEUE_FULL")
            else:
                break


def test_engine_errors_are_not_leaked(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
) -> None:
    """The engine's own words stay in the log."""
    unforeseen = failure(lambda: server.stub.Adapt(adapt_request(seed=REFUSE), timeout=30))
    memory = failure(lambda: server.stub.Adapt(adapt_request(seed=NO_MEMORY), timeout=30))

    assert unforeseen.code() is grpc.StatusCode.INTERNAL
    assert memory.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (reason(unforeseen), reason(memory)) == ("INTERNAL", "GPU_MEMORY")
    trailers = dict(unforeseen.trailing_metadata())
    assert trailers["x-kshot-request-id"] in unforeseen.details()
    for error in (unforeseen, memory):
        assert "secret" not in str(error)


def test_a_stop_drains(
    start_server: StartServer,
    adapt_request: Make,
    wait_arrival: Callable[[], str],
    let_go: Callable[[], int],
) -> None:
    """Running calls finish, and new ones are refused."""
    with start_server() as server, ThreadPoolExecutor() as pool:
        health = health_pb2_grpc.HealthStub(server.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        running = pool.submit(server.stub.Adapt, adapt_request(seed=WAIT), timeout=30)
        wait_arrival()

        server.stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = failure(lambda: server.stub.Adapt(adapt_request(), timeout=30))
        let_go()

        assert_retriable(refused, "SHUTTING_DOWN")
        assert running.result().adapted_model.id
        server.join()


def test_a_second_signal_does_not_wait(
    start_server: StartServer, adapt_request: Make, wait_arrival: Callable[[], str]
) -> None:
    with start_server(drain_grace=1000.0) as server, ThreadPoolExecutor() as pool:
        hanging = pool.submit(server.stub.Adapt, adapt_request(seed=HANG), timeout=100)
        wait_arrival()
        server.stop()
        server.hurry()

        assert failure(hanging.result).code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )
        server.join()


def test_the_grace_ends(
    start_server: StartServer, adapt_request: Make, wait_arrival: Callable[[], str]
) -> None:
    with start_server(drain_grace=0.1) as server, ThreadPoolExecutor() as pool:
        hanging = pool.submit(server.stub.Adapt, adapt_request(seed=HANG), timeout=100)
        wait_arrival()
        server.stop()

        failure(hanging.result)
        server.join()


def test_a_call_to_an_engine_that_is_gone_may_be_tried_again(
    tmp_path: Path, make_model: Make
) -> None:
    """The engine may go while the request is being written: its channel is closed then."""

    async def main() -> None:
        client = EngineClient(str(tmp_path / "socket"))
        await client.close()
        support, options = np.zeros((2, 1, 4, 4), np.float32), make_model().options
        task = EngineTask("tiny", "0" * 64, support, (0, 1), 2, options)
        with pytest.raises(EngineUnavailable):
            await client.adapt(task, None)

    asyncio.run(main())
