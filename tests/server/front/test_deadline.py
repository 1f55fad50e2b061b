"""The caller's time begins with the arrival of a call, and all that is done for it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kshot.server import checked_task
from kshot.server.call_context import current_call
from kshot.server.engine_link.supervisor import EngineSupervisor
from tests.server.front.fake_engine import HANG_UNTIL_LEFT

Make = Callable[..., Any]


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass while the images of an adaptation are prepared."""
    prepare = checked_task.prepare_images

    def arrange(seconds: float) -> None:
        def slow(*arguments: Any) -> Any:  # noqa: ANN401 -- what the function itself takes
            call = current_call()
            assert call.deadline is not None
            call.deadline -= seconds
            return prepare(*arguments)

        monkeypatch.setattr(checked_task, "prepare_images", slow)

    return arrange


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the engine is given, in seconds."""
    given: list[float] = []
    adapt = EngineSupervisor.adapt

    async def watched(engine: EngineSupervisor, task: Any, timeout: float) -> Any:  # noqa: ANN401 -- as it is
        given.append(timeout)
        return await adapt(engine, task, timeout)

    monkeypatch.setattr(EngineSupervisor, "adapt", watched)
    return given


def test_the_engine_is_given_what_decoding_has_left(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    let_pass: Callable[[float], None],
    timeouts: list[float],
) -> None:
    let_pass(900)
    server.stub.Adapt(adapt_request(allow_partial=True), timeout=1000)

    (timeout,) = timeouts
    assert 0 < timeout < 200


def test_a_deadline_during_decoding_ends_the_call(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    let_pass: Callable[[float], None],
    timeouts: list[float],
    refusal: Make,
) -> None:
    let_pass(2000)
    refused = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=1000))

    assert (refused.code, refused.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert timeouts == []


def test_the_engine_hears_that_a_client_cancels(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    wait_arrival: Callable[[], str],
) -> None:
    """Its loop then ends before the next step (tests/engine/test_scheduler.py)."""
    call = server.stub.Adapt.future(adapt_request(seed=HANG_UNTIL_LEFT), timeout=300)
    wait_arrival()
    call.cancel()

    assert wait_arrival() == "here\n"
