from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from kshot.server import fair_pool
from kshot.server.fair_pool import FairPool, aside, give_way


@pytest.fixture
def pool() -> Iterator[FairPool]:
    made = FairPool(1, "test")
    yield made
    made.close()


class Order:
    """Notes which jobs ran, in which order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def job(self, name: str) -> Callable[[], None]:
        return lambda: self.names.append(name)


def test_a_caller_who_has_nothing_running_waits_for_nobody(pool: FairPool) -> None:
    go_on, order = threading.Event(), Order()
    held = [pool.submit("many", go_on.wait) for _ in range(5)]

    pool.submit("few", order.job("few")).result(60)

    assert sum(each.running() for each in held) == 1
    go_on.set()
    assert all(each.result(60) for each in held)


def test_callers_take_turns(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, begin = list[str](), pool._begin
    monkeypatch.setattr(pool, "_begin", lambda job: (begun.append(job.caller), begin(job)))
    go_on, order = threading.Event(), Order()
    for caller in "xy":
        pool.submit(caller, go_on.wait)
    jobs = [pool.submit(name[0], order.job(name)) for name in ("x1", "x2", "x3", "y1", "z1", "z2")]
    unwanted = pool.submit("z", order.job("unwanted"))
    assert unwanted.cancel()

    go_on.set()

    for job in jobs:
        job.result(60)
    assert "".join(begun).startswith("xyz")  # the last to come is before who had a turn
    assert sorted(order.names) == ["x1", "x2", "x3", "y1", "z1", "z2"]


def test_long_jobs_let_others_go_first(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many callers have long ones; and each goes on after its pause."""
    monkeypatch.setattr(fair_pool, "PART_SECONDS", 0.0)
    stop, parts = threading.Event(), {"x": 0, "y": 0}

    def long(caller: str) -> int:
        while not stop.is_set():
            parts[caller] += 1
            give_way()
        return parts[caller]

    jobs = [pool.submit(caller, lambda caller=caller: long(caller)) for caller in "xy"]
    for number in range(3):
        assert pool.submit("quiet", lambda number=number: number).result(60) == number
    alone: Future[None] = pool.submit("x", give_way)  # nobody is before it
    stop.set()

    assert [job.result(60) > 0 for job in jobs] == [True, True]
    alone.result(60)
    give_way()  # outside of a job it does nothing


def test_long_jobs_let_other_parts_of_their_caller_go_first(
    pool: FairPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection of a tenant does not hold up the others."""
    monkeypatch.setattr(fair_pool, "PART_SECONDS", 0.0)
    stop = threading.Event()

    def long() -> int:
        while not stop.is_set():
            give_way()
        return 1

    jobs = [pool.submit("x", long, "1") for _ in range(4)]
    for number in range(3):
        assert pool.submit("x", lambda number=number: number, "2").result(60) == number
    stop.set()

    assert [job.result(60) for job in jobs] == [1] * 4


def test_a_core_is_left_while_others_are_around(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, go_on = FairPool(2, "test"), threading.Event()
    pool.submit("few", lambda: None).result(60)
    monkeypatch.setattr(fair_pool, "AROUND_SECONDS", 1000.0)
    jobs = [pool.submit("many", go_on.wait) for _ in range(3)]
    assert sum(job.running() for job in jobs) == 1

    monkeypatch.setattr(fair_pool, "AROUND_SECONDS", 0.0)
    jobs.append(pool.submit("many", go_on.wait))

    assert sum(job.running() for job in jobs) == 2
    go_on.set()
    assert all(job.result(60) for job in jobs)
    pool.close()


def test_an_error_is_the_jobs_own(pool: FairPool) -> None:
    def fail() -> None:
        raise KeyError

    assert isinstance(pool.submit("x", fail).exception(60), KeyError)
    assert pool.submit("x", lambda: 1).result(60) == 1


def test_a_job_fails_where_there_is_no_thread_for_it(
    pool: FairPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert isinstance(pool.submit("x", lambda: 1).exception(60), RuntimeError)

    assert pool.submit("x", lambda: 1).result(60) == 1


def test_a_close_drops_what_waits_and_ends_what_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_pool, "PART_SECONDS", 0.0)
    pool, go_on, begun = FairPool(1, "test"), threading.Event(), threading.Event()

    def paused() -> str:
        begun.set()
        go_on.wait()
        give_way()
        return "ended"

    began = pool.submit("x", paused)
    assert begun.wait(60)
    blocking = [pool.submit("y", go_on.wait) for _ in range(3)]
    pool.close()
    go_on.set()

    assert began.result(60) == "ended"
    assert [each.cancelled() for each in blocking] == [False, True, True]
    with pytest.raises(RuntimeError):
        pool.submit("z", paused)


def test_a_job_that_waits_aside_holds_no_place(pool: FairPool) -> None:
    """Others run meanwhile, of its own caller too; then it has to wait for a place."""
    step, go_on, order = threading.Event(), threading.Event(), Order()

    def waits() -> None:
        with aside():
            give_way()  # there is no place to give
            step.set()
            go_on.wait()
        order.names.append("back")

    waiting = pool.submit("x", waits)
    assert step.wait(60)
    pool.submit("x", order.job("meanwhile")).result(60)
    hold, held = threading.Event(), threading.Event()
    last = pool.submit("x", lambda: (held.set(), hold.wait(), order.names.append("held")))
    assert held.wait(60)
    go_on.set()
    hold.set()
    waiting.result(60)
    last.result(60)

    assert order.names == ["meanwhile", "held", "back"]
    with aside():  # outside of a job it does nothing
        pass


def test_a_job_aside_ends_though_its_pool_is_closed() -> None:
    made, step, go_on = FairPool(1, "test"), threading.Event(), threading.Event()

    def waits() -> str:
        with aside():
            step.set()
            go_on.wait()
        return "done"

    waiting = made.submit("x", waits)
    assert step.wait(60)
    made.close()
    go_on.set()

    assert waiting.result(60) == "done"
