from __future__ import annotations

import pytest

from kshot.server import call_context
from kshot.server.call_context import begin_call, seconds_to_spare, until_sent
from kshot.server.errors import CallCancelled, DeadlineExceeded


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that calls see, to be changed."""
    now = [100.0]
    monkeypatch.setattr(call_context.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(call_context.time, "perf_counter", lambda: now[0])
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


@pytest.mark.parametrize(
    ("remaining", "spare"), [(None, None), (10.0, 8.0), (1.0, 0.7), (0.2, -0.1), (-1.0, -1.3)]
)
def test_what_better_models_may_take(remaining: float | None, spare: float | None) -> None:
    """A fifth is kept, or three tenths of a second."""
    assert seconds_to_spare(remaining) == (spare if spare is None else pytest.approx(spare))


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


def test_parts_that_overlap_take_no_longer_than_their_block(clock: list[float]) -> None:
    """Two cores work for a second each, side by side: the caller waits one second."""
    call = begin_call("Adapt")
    call.add("compute", 5)

    with call.side_by_side():
        clock[0] += 1
        call.add("compute", 1.5)
        call.add("queue", 0.5)
    with call.side_by_side():
        clock[0] += 4
        call.add("decode", 3)

    assert call.seconds == {"queue": 0.25, "decode": 3, "compute": 5.75, "store": 0}


def test_what_a_call_holds_is_given_back_once_it_is_sent() -> None:
    given: list[str] = []
    call = begin_call("Adapt")

    until_sent(lambda: given.append("now"))
    call.held = []
    until_sent(lambda: given.append("then"))

    assert given == ["now"]
    call.sent()
    call.sent()
    assert given == ["now", "then"]
