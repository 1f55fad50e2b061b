from __future__ import annotations

import pytest

from kshot.server import call_context
from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled, DeadlineExceeded


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that calls see, to be changed."""
    now = [100.0]
    monkeypatch.setattr(call_context.time, "monotonic", lambda: now[0])
    return now


def test_the_time_that_is_left_shrinks(clock: list[float]) -> None:
    call = begin_call("Adapt", 10)
    clock[0] += 4

    assert call.deadline == 110
    assert call.remaining() == 6


def test_a_call_without_a_deadline_has_all_the_time() -> None:
    call = begin_call("Adapt")
    call.check()

    assert call.remaining() is None
    assert not call.timed_out()


def test_work_for_nobody_is_told_to_stop(clock: list[float]) -> None:
    call = begin_call("Predict", 1)
    call.check()
    call.ended = True
    with pytest.raises(CallCancelled):
        call.check()
    clock[0] += 1
    with pytest.raises(DeadlineExceeded):
        call.check()


@pytest.mark.parametrize(
    ("passed", "timed_out"), [(98.9, False), (98.97, True), (99.99, True), (500, True)]
)
def test_an_end_about_the_deadline_is_the_deadlines(
    clock: list[float], passed: float, timed_out: bool
) -> None:
    call = begin_call("Predict", 100)
    clock[0] += passed

    assert call.timed_out() is timed_out
