from kshot.engine.budget import ANSWER_SECONDS, ANSWER_STEPS, Budget
from kshot.engine.task import StopReason


def test_without_a_deadline_it_never_stops() -> None:
    now = [100.0]
    budget = Budget(None, allow_partial=False, clock=lambda: now[0])
    now[0] += 1e9

    assert budget.should_stop() is None


def test_a_full_answer_stops_at_the_deadline() -> None:
    now = [100.0]
    budget = Budget(2.0, allow_partial=False, clock=lambda: now[0])

    now[0] += 1.99
    assert budget.should_stop() is None
    now[0] += 0.02
    assert budget.should_stop() is StopReason.TIME_BUDGET


def test_a_partial_answer_keeps_some_steps_in_reserve() -> None:
    now = [100.0]
    budget = Budget(5.0, allow_partial=True, clock=lambda: now[0])
    assert budget.should_stop() is None
    now[0] += 0.5
    assert budget.should_stop() is None

    now[0] = 100 + 5.0 - ANSWER_STEPS * 0.5 - ANSWER_SECONDS + 0.001

    assert budget.should_stop() is StopReason.TIME_BUDGET


def test_an_answer_that_is_there_waits_for_one_step() -> None:
    """By steps of half a second from 0; the margin is half a second and `ANSWER_SECONDS`."""
    now = [0.0]
    budget = Budget(3.0, allow_partial=True, clock=lambda: now[0])

    asked = []
    for _ in range(6):
        asked.append(budget.should_stop(answer_steps=1))
        now[0] += 0.5

    assert asked == [None] * 5 + [StopReason.TIME_BUDGET]


def test_cancelling_comes_first() -> None:
    now = [100.0]
    budget = Budget(0.0, allow_partial=False, clock=lambda: now[0])
    budget.cancelled.set()

    assert budget.should_stop() is StopReason.CANCELLED


def test_one_slow_step_does_not_end_a_partial_answer_early() -> None:
    """A first step may be slow by itself; the next ones show what steps take."""
    now = [0.0]
    budget = Budget(3.0, allow_partial=True, clock=lambda: now[0])
    assert budget.should_stop() is None
    now[0] += 0.6
    assert budget.should_stop() is None

    for _ in range(36):
        now[0] += 0.05
        assert budget.should_stop() is None
