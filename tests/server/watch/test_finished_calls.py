from __future__ import annotations

import pytest

from kshot.server.call_context import Call
from kshot.server.event_log import log_call
from kshot.server.watch.call_trace import CallTraces
from kshot.server.watch.finished_calls import BOUNDS, TOTAL, FinishedCalls, Outcome, Times
from kshot.server.watch.observer import CallObserver


def test_a_time_falls_into_the_first_bucket_that_holds_it() -> None:
    times = Times()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-6, BOUNDS[-1] + 1):
        times.add(seconds)

    assert times.counts[:2] == [2, 1]
    assert times.counts[-1] == 1
    assert sum(times.counts) == 4
    assert times.seconds == pytest.approx(2 * BOUNDS[0] + BOUNDS[-1] + 1 + 1e-6)


def test_calls_are_counted_by_outcome_and_phase() -> None:
    finished = FinishedCalls()
    for seconds in (0.003, 0.004):
        call = Call("Adapt", tenant="blue")
        call.add("compute", seconds)
        finished.add(call, "OK")
    finished.add(Call("Adapt"), "UNAVAILABLE", "QUEUE_FULL")

    outcomes = finished.outcomes()
    assert set(outcomes) == {
        Outcome("Adapt", "OK", ""),
        Outcome("Adapt", "UNAVAILABLE", "QUEUE_FULL"),
    }
    answered = outcomes[Outcome("Adapt", "OK", "")]
    assert answered["compute"].seconds == pytest.approx(0.007)
    assert answered["compute"].counts[BOUNDS.index(0.005)] == 2
    assert answered["queue"].seconds == 0
    assert sum(answered[TOTAL].counts) == 2
    assert finished.tenants() == {"blue": 2, "": 1}


def test_what_was_read_does_not_change() -> None:
    finished = FinishedCalls()
    finished.add(Call("Predict"), "OK")
    before = finished.outcomes()
    finished.add(Call("Predict"), "OK")

    assert sum(before[Outcome("Predict", "OK", "")][TOTAL].counts) == 1


def test_the_log_line_of_a_call_has_it_counted() -> None:
    observer, call = CallObserver(), Call("Predict")
    observer.begin(call)
    log_call(call, "NOT_FOUND", "ADAPTED_MODEL_NOT_FOUND")

    assert list(observer.finished.outcomes()) == [
        Outcome("Predict", "NOT_FOUND", "ADAPTED_MODEL_NOT_FOUND")
    ]
    assert call.parts is None


def test_calls_of_standard_services_are_not_traced() -> None:
    observer, call = CallObserver(traces=CallTraces(None)), Call("Check")  # type: ignore[arg-type]  # a tracer that fails
    observer.begin(call)

    assert call.traceparent == ""
