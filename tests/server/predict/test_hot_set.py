from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kshot.bundle import BatchNormMode
from kshot.server.predict.hot_set import HotSet
from kshot.server.store.adapted_model import AdaptedArrays

MakeArrays = Callable[..., AdaptedArrays]
SUPPORT = BatchNormMode.SUPPORT


class Session:
    """What stands for a session: it knows what it was made from."""

    def __init__(self, arrays: AdaptedArrays) -> None:
        self.weights = arrays.parameters["head.weight"]


class Builds:
    """Makes sessions and counts them; waits where a test says so."""

    def __init__(self) -> None:
        self.count = 0
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, arrays: AdaptedArrays) -> Any:  # noqa: ANN401 -- what stands for a session
        self.count += 1
        self.started.set()
        assert self.go_on.wait(60)
        return Session(arrays)


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def make_hot_set() -> Iterator[Callable[..., HotSet]]:
    """Make hot sets that are closed at the end."""
    made: list[HotSet] = []

    def make(max_sessions: int = 2, after_images: int = 1) -> HotSet:
        made.append(HotSet(max_sessions, after_images))
        return made[-1]

    yield make
    for hot_set in made:
        hot_set.close()


def settle(hot_set: HotSet) -> None:
    """Wait until all sessions that are due are made."""
    hot_set._builder.submit(lambda: None).result(60)


def warm(
    hot_set: HotSet, arrays: AdaptedArrays, builds: Builds, mode: BatchNormMode = SUPPORT
) -> Any:  # noqa: ANN401 -- what stands for a session
    """Ask until there is a session, and return it."""
    for _ in range(2):
        hot_set.find(arrays, mode, 1, builds)
    settle(hot_set)
    return hot_set.find(arrays, mode, 1, builds)


def test_the_first_request_makes_nothing_however_large(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    """AdaptAndPredict asks once of arrays that nobody keeps."""
    hot_set, arrays = make_hot_set(), make_arrays()
    assert hot_set.find(arrays, SUPPORT, 1000, builds) is None
    settle(hot_set)

    assert builds.count == 0


def test_a_session_is_made_after_enough_images(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set, arrays = make_hot_set(after_images=10), make_arrays()
    for _ in range(3):
        assert hot_set.find(arrays, SUPPORT, 3, builds) is None
    settle(hot_set)
    assert builds.count == 0

    assert hot_set.find(arrays, SUPPORT, 3, builds) is None
    settle(hot_set)

    session: Any = hot_set.find(arrays, SUPPORT, 3, builds)
    assert session.weights is arrays.parameters["head.weight"]
    assert builds.count == 1


def test_one_session_is_made_at_a_time(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    """Requests go on while a session is made, and start no second one."""
    hot_set, arrays = make_hot_set(), make_arrays()
    builds.go_on.clear()
    for _ in range(2):
        assert hot_set.find(arrays, SUPPORT, 1, builds) is None
    assert builds.started.wait(60)
    for _ in range(100):
        assert hot_set.find(arrays, SUPPORT, 1, builds) is None
    builds.go_on.set()
    settle(hot_set)

    assert hot_set.find(arrays, SUPPORT, 1, builds) is not None
    assert builds.count == 1


def test_each_mode_has_a_session_of_its_own(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set, arrays = make_hot_set(), make_arrays()

    one = warm(hot_set, arrays, builds)
    other = warm(hot_set, arrays, builds, BatchNormMode.TRANSDUCTIVE)
    assert one is not other
    assert hot_set.find(arrays, SUPPORT, 1, builds) is one


def test_the_longest_unused_session_makes_room(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set = make_hot_set(max_sessions=2)
    a, b, c = (make_arrays(seed) for seed in range(3))
    kept = warm(hot_set, a, builds)
    warm(hot_set, b, builds)
    hot_set.find(a, SUPPORT, 1, builds)
    warm(hot_set, c, builds)

    assert len(hot_set) == 2
    assert hot_set.find(a, SUPPORT, 1, builds) is kept
    assert hot_set.find(b, SUPPORT, 1, builds) is None
    assert builds.count == 3
    assert warm(hot_set, b, builds) is not None
    assert builds.count == 4


def test_zero_sessions_remember_nothing(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set, arrays = make_hot_set(max_sessions=0), make_arrays()
    assert warm(hot_set, arrays, builds) is None

    assert hot_set.candidate_count == 0
    assert builds.count == 0


def test_a_session_goes_with_its_arrays(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    """A deleted model is let go of by the cache, and then by the last call that uses it."""
    hot_set, arrays = make_hot_set(), make_arrays()
    warm(hot_set, arrays, builds)
    assert (len(hot_set), hot_set.candidate_count) == (1, 1)

    del arrays

    assert (len(hot_set), hot_set.candidate_count) == (0, 0)


def test_arrays_freed_during_a_build_leave_nothing(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set, arrays = make_hot_set(), make_arrays()
    builds.go_on.clear()
    for _ in range(2):
        hot_set.find(arrays, SUPPORT, 1, builds)
    assert builds.started.wait(60)
    del arrays
    builds.go_on.set()
    settle(hot_set)

    assert builds.count == 1
    assert (len(hot_set), hot_set.candidate_count) == (0, 0)


def test_freed_arrays_get_no_session(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    hot_set, first, second = make_hot_set(), make_arrays(1), make_arrays(2)
    builds.go_on.clear()
    for arrays in (first, second):
        for _ in range(2):
            hot_set.find(arrays, SUPPORT, 1, builds)
    del arrays, second
    builds.go_on.set()
    settle(hot_set)

    assert builds.count == 1


def test_a_failed_session_is_logged_once(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, caplog: pytest.LogCaptureFixture
) -> None:
    hot_set, arrays = make_hot_set(), make_arrays()

    def fail(_: AdaptedArrays) -> Any:  # noqa: ANN401 -- never returns
        raise RuntimeError("no memory")

    with caplog.at_level(logging.ERROR):
        for _ in range(10):
            assert hot_set.find(arrays, SUPPORT, 1, fail) is None
        settle(hot_set)

    assert [record.message for record in caplog.records] == ["failure"]


def test_threads_never_get_anothers_session(
    make_hot_set: Callable[..., HotSet], make_arrays: MakeArrays, builds: Builds
) -> None:
    """Arrays come and go, so that their places in memory are used again, and few stay hot."""
    hot_set = make_hot_set(max_sessions=3)
    lasting = [make_arrays(seed) for seed in range(6)]

    def work(turn: int) -> bool:
        arrays = make_arrays(turn) if turn % 3 == 0 else lasting[turn * 7 % 6]
        found: list[Any] = [hot_set.find(arrays, SUPPORT, 1, builds) for _ in range(4)]
        weights = arrays.parameters["head.weight"]
        return all(session is None or session.weights is weights for session in found)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(3000)))
    settle(hot_set)
    gc.collect()

    assert all(answers)
    assert builds.count > 6
    assert len(hot_set) <= 3
    assert hot_set.candidate_count <= 6
