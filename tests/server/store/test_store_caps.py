"""The caps on the number and the bytes of what is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from kshot.server.errors import AdaptedModelExpired, AdaptedModelNotFound, StoreIsFull
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import model_content
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]


def test_the_number_is_capped(
    make_model: MakeModel, make_arrays: MakeArrays, open_store: OpenStore
) -> None:
    with open_store(max_count=2) as store:
        for model_id in ("a", "b"):
            store.put(make_model(model_id), make_arrays())
        with pytest.raises(StoreIsFull, match="its limit is 2 models"):
            store.put(make_model("c"), make_arrays())
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("c")

        store.delete("a")
        store.put(make_model("c"), make_arrays())


def test_the_bytes_are_capped(
    make_model: MakeModel, make_arrays: MakeArrays, open_store: OpenStore
) -> None:
    size = model_content(make_model("a"), make_arrays()).size_bytes
    with open_store(max_count=9, max_bytes=2 * size) as store:
        store.put(make_model("a"), make_arrays())
        store.put(make_model("b"), make_arrays())
        with pytest.raises(StoreIsFull, match=f"its limit is {2 * size} bytes"):
            store.put(make_model("c"), make_arrays())


def test_what_has_expired_makes_room(
    clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays, open_store: OpenStore
) -> None:
    with open_store(max_count=1) as store:
        store.put(make_model("a", expire_time=1500.0), make_arrays())
        clock.now = 1500.0
        store.put(make_model("b"), make_arrays())

        with pytest.raises(AdaptedModelExpired):
            store.get("a")


def test_puts_at_once_never_pass_the_cap(
    make_model: MakeModel, make_arrays: MakeArrays, open_store: OpenStore
) -> None:
    barrier = threading.Barrier(8)

    def put(index: int) -> bool:
        barrier.wait(60)
        try:
            store.put(make_model(f"m{index}"), make_arrays())
        except StoreIsFull:
            return False
        return True

    with (
        open_store(max_count=3) as store,
        ThreadPoolExecutor(8) as pool,
    ):
        assert sum(pool.map(put, range(8))) == 3
        assert len(store.list(10)[0]) == 3
