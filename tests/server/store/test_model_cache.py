from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.model_cache import CachedModel, ModelCache

MakeArrays = Callable[..., AdaptedArrays]
MakeHeld = Callable[..., CachedModel]


def refuse() -> CachedModel:
    raise AssertionError("loaded although it was kept")


@pytest.fixture(scope="module")
def make_held(make_arrays: MakeArrays, make_model: Callable[..., AdaptedModelRecord]) -> MakeHeld:
    """Make an adapted model as the cache holds it; the seed decides its arrays."""
    return lambda seed=0: CachedModel(make_model(), make_arrays(seed))


def test_keeps_what_was_used_last_within_its_bytes(make_held: MakeHeld) -> None:
    size_bytes = make_held().arrays.size_bytes
    cache = ModelCache(2 * size_bytes)
    kept = {name: cache.get_or_load(name, lambda: make_held()) for name in ("a", "b")}
    cache.get_or_load("a", refuse)
    cache.get_or_load("c", make_held)

    assert cache.used_bytes == 2 * size_bytes
    assert cache.get_or_load("a", refuse) is kept["a"]
    assert cache.get_or_load("b", make_held) is not kept["b"]


def test_a_model_larger_than_the_cache_is_not_kept(make_held: MakeHeld) -> None:
    cache = ModelCache(make_held().arrays.size_bytes - 1)
    first = cache.get_or_load("a", make_held)

    assert cache.used_bytes == 0
    assert cache.get_or_load("a", make_held) is not first


def test_discarding_gives_the_bytes_back(make_held: MakeHeld) -> None:
    cache = ModelCache(10**6)
    cache.get_or_load("a", make_held)
    cache.discard("a")
    cache.discard("never there")

    assert cache.used_bytes == 0


def test_threads_that_ask_at_once_share_one_load(make_held: MakeHeld) -> None:
    cache = ModelCache(10**6)
    started, go_on = threading.Event(), threading.Event()
    loads: list[int] = []

    def load() -> CachedModel:
        loads.append(1)
        started.set()
        assert go_on.wait(60)
        return make_held()

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get_or_load, "a", load)
        assert started.wait(60)
        others = [pool.submit(cache.get_or_load, "a", load) for _ in range(7)]
        go_on.set()
        results = {id(future.result(60)) for future in (first, *others)}

    assert len(results) == 1
    assert len(loads) == 1


def test_a_failed_load_is_tried_again(make_held: MakeHeld) -> None:
    cache = ModelCache(10**6)

    def fail() -> CachedModel:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            cache.get_or_load("a", fail)
    arrays = cache.get_or_load("a", make_held)

    assert cache.get_or_load("a", refuse) is arrays


def test_what_is_discarded_while_it_loads_is_not_kept(make_held: MakeHeld) -> None:
    """A model that is deleted during a load must not come back from memory."""
    cache = ModelCache(10**6)

    def load() -> CachedModel:
        cache.discard("a")
        return make_held()

    cache.get_or_load("a", load)

    assert cache.used_bytes == 0


def test_many_threads_never_get_another_ids_arrays(make_held: MakeHeld) -> None:
    models = {f"m{seed}": make_held(seed) for seed in range(6)}
    cache = ModelCache(3 * models["m0"].arrays.size_bytes)

    def work(turn: int) -> bool:
        name = f"m{turn * 7 % 6}"
        if turn % 5 == 0:
            cache.discard(name)
        return cache.get_or_load(name, lambda: models[name]) is models[name]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(2000)))

    assert all(answers)
    assert cache.used_bytes <= 3 * models["m0"].arrays.size_bytes


def test_finding_loads_nothing_and_counts_as_a_use(make_held: MakeHeld) -> None:
    cache = ModelCache(2 * make_held().arrays.size_bytes)
    kept = {name: cache.get_or_load(name, make_held) for name in ("a", "b")}

    assert cache.find("a") is kept["a"]
    assert cache.find("never there") is None
    cache.get_or_load("c", make_held)
    assert cache.find("b") is None
    assert cache.find("a") is kept["a"]


def test_nothing_holds_what_was_discarded(make_held: MakeHeld) -> None:
    cache = ModelCache(10**6)
    held = cache.get_or_load("a", make_held)
    arrays = weakref.ref(held.arrays)
    cache.discard("a")
    del held

    assert arrays() is None
