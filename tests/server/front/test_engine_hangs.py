"""An engine that is there but answers nothing: noticed, ended, replaced."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, cast

import grpc
import pytest

from kshot.server.engine_link.client import EngineClient, EngineFacts

Make = Callable[..., Any]
Refuse = Callable[[Callable[[], object]], Any]
StartServer = Callable[..., AbstractContextManager[Any]]

WAIT = 906
FREEZE = 908
PROBE = 0.01


def test_an_engine_that_hangs_is_replaced(
    start_server: StartServer,
    adapt_request: Make,
    refusal: Refuse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with start_server(engine_probe=0.5) as server:
        frozen = refusal(lambda: server.stub.Adapt(adapt_request(seed=FREEZE), timeout=100))
        while True:  # pytest's time limit ends this
            try:
                assert server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
            except grpc.RpcError as error:
                assert cast(grpc.Call, error).code() is grpc.StatusCode.UNAVAILABLE
            else:
                break

    assert (frozen.code, frozen.reason) == ("UNAVAILABLE", "ENGINE_UNAVAILABLE")
    assert "engine_hangs" in caplog.messages


def test_an_engine_that_only_computes_is_left_alone(
    start_server: StartServer,
    adapt_request: Make,
    wait_arrival: Callable[[], str],
    let_go: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    probed = threading.Semaphore(0)
    probe = EngineClient.probe
    luck = itertools.cycle([False, False, True])

    async def sometimes(client: EngineClient, seconds: float) -> EngineFacts | None:
        """Take two answers in three for missed: never so many in a row that it counts."""
        facts = await probe(client, 30)
        if seconds != PROBE:  # the shared server's supervisor runs beside this one
            return facts
        probed.release()
        return facts if next(luck) else None

    monkeypatch.setattr(EngineClient, "probe", sometimes)
    with start_server(engine_probe=PROBE) as server, ThreadPoolExecutor() as pool:
        computing = pool.submit(server.stub.Adapt, adapt_request(seed=WAIT), timeout=100)
        wait_arrival()
        for _ in range(10):
            assert probed.acquire(timeout=60)
        let_go()

        assert computing.result().adapted_model.id
    assert "engine_hangs" not in caplog.messages
