"""A sweep of many expired models: nobody waits for it, and a crash within it loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import AdaptedModelExpired, AdaptedModelNotFound, StartError, StoreIsFull
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
FileOf = Callable[[str], Path]

COUNT = 20


@pytest.fixture
def put_short_and_long(
    store: LocalStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Put many models that have expired by now, and one that has not."""
    for index in range(COUNT):
        store.put(make_model(f"short{index}", expire_time=1500.0), make_arrays())
    store.put(make_model("long", expire_time=9000.0), make_arrays())
    clock.now = 1500.0


@pytest.mark.usefixtures("put_short_and_long")
def test_others_go_on_while_files_are_removed(
    store: LocalStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove = store._files.remove

    def meanwhile(model_ids: Collection[str]) -> None:
        if len(model_ids) == COUNT:
            assert pool.submit(store.get, "long").result(timeout=60).id == "long"
            pool.submit(store.read, "long").result(timeout=60)
            pool.submit(store.put, make_model("new"), make_arrays()).result(timeout=60)
            pool.submit(store.delete, "new").result(timeout=60)
            with pytest.raises(AdaptedModelExpired):
                pool.submit(store.read, "short0").result(timeout=60)
            with pytest.raises(ValueError, match="id: expected a new one"):
                pool.submit(store.put, make_model("short0"), make_arrays()).result(timeout=60)
        remove(model_ids)

    monkeypatch.setattr(store._files, "remove", meanwhile)
    with ThreadPoolExecutor(1) as pool:
        assert store.sweep() == COUNT

    assert [path.stem for path in store._files._models.iterdir()] == ["long"]


def test_others_go_on_while_a_put_makes_room(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_store(max_count=2) as store, ThreadPoolExecutor(1) as pool:
        store.put(make_model("short", expire_time=1500.0), make_arrays())
        store.put(make_model("long", expire_time=9000.0), make_arrays())
        clock.now = 1500.0
        remove = store._files.remove

        def meanwhile(model_ids: Collection[str]) -> None:
            assert pool.submit(store.get, "long").result(timeout=60).id == "long"
            remove(model_ids)

        monkeypatch.setattr(store._files, "remove", meanwhile)

        assert store.put(make_model("new"), make_arrays()).id == "new"


def test_room_that_another_sweep_made_is_room(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_store(max_count=1) as store:
        store.put(make_model("short", expire_time=1500.0), make_arrays())
        clock.now = 1500.0
        expire = store._expire

        def expire_after_another() -> tuple[Sequence[str], bool]:
            expire()
            return expire()

        monkeypatch.setattr(store, "_expire", expire_after_another)

        assert store.put(make_model("new"), make_arrays()).id == "new"


@pytest.mark.usefixtures("put_short_and_long")
def test_others_go_on_between_parts_of_a_sweep(
    store: LocalStore, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits until thousands of rows are buried."""
    remove, left = store._files.remove, []

    def meanwhile(model_ids: Collection[str]) -> None:
        if model_ids:
            assert pool.submit(store.get, "long").result(timeout=60).id == "long"
            left.append(store._index.use()[0])
        remove(model_ids)

    monkeypatch.setattr("kshot.server.store.tables.index.AT_ONCE", COUNT // 4)
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:
        patched.setattr(store._files, "remove", meanwhile)
        assert store.sweep() == COUNT
    assert left == [16, 11, 6, 1]
    assert [path.stem for path in store._files._models.iterdir()] == ["long"]

    clock.now += 8 * 24 * 3600
    store.sweep()
    assert list(store._index.tombstones()) != []  # of "long"
    clock.now += 8 * 24 * 3600
    store.sweep()
    assert list(store._index.tombstones()) == []


def test_a_put_at_the_cap_does_not_wait_for_a_sweep(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few such puts would take every thread of the store."""
    with open_store(max_count=2) as store, ThreadPoolExecutor(1) as pool:
        store.put(make_model("short", expire_time=1500.0), make_arrays())
        store.put(make_model("long", expire_time=9000.0), make_arrays())
        clock.now = 1500.0
        remove, refused = store._files.remove, []

        def meanwhile(model_ids: Collection[str]) -> None:
            if list(model_ids) == ["short"]:
                pool.submit(store.put, make_model("new"), make_arrays()).result(timeout=60)
                again = pool.submit(store.put, make_model("more"), make_arrays())
                refused.append(again.exception(timeout=60))
            remove(model_ids)

        monkeypatch.setattr(store._files, "remove", meanwhile)
        store.sweep()

    assert [type(error) for error in refused] == [StoreIsFull]


@pytest.mark.usefixtures("put_short_and_long")
def test_many_cost_as_few_writes_as_one(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, syncs = [], []
    store._index._connection.set_trace_callback(
        lambda statement: commits.append(statement) if statement == "COMMIT" else None
    )
    monkeypatch.setattr("kshot.server.store.files.sync_folder", syncs.append)

    store.sweep()

    assert len(commits) <= 2
    assert len(syncs) <= 2


@pytest.mark.usefixtures("put_short_and_long")
def test_close_waits_for_a_sweep(
    store: LocalStore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process must not get the folder before."""
    remove = store._files.remove

    def meanwhile(model_ids: Collection[str]) -> None:
        closing.append(pool.submit(store.close))
        with pytest.raises(StartError, match="in use"):
            open_store()
        remove(model_ids)

    monkeypatch.setattr(store._files, "remove", meanwhile)
    closing = []
    with ThreadPoolExecutor(1) as pool:
        store.sweep()
        closing[0].result(timeout=60)

    with open_store() as again:
        assert again.get("long").id == "long"


@pytest.mark.usefixtures("put_short_and_long")
def test_open_finishes_a_partial_sweep(
    store: LocalStore,
    open_store: OpenStore,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(_path: Path, *, missing_ok: bool = False) -> None:  # noqa: ARG001 -- the original's
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            store.sweep()
    assert file_of("short0").exists()
    store.close()

    with open_store() as again:
        assert [entry.name for entry in os.scandir(file_of("long").parent)] == ["long.safetensors"]
        with pytest.raises(AdaptedModelExpired):
            again.get("short0")
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            again.get("never")
