"""Changes of a record: durable before they are acknowledged, whatever comes between."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import AdaptedModelDamaged, AdaptedModelExpired, AdaptedModelNotFound
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import StoreFailed
from kshot.server.store.files import StoreFiles
from kshot.server.store.store import LocalStore
from kshot.server.upkeep.inspection import check_store

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]


def until(time: float) -> Callable[[AdaptedModelRecord], AdaptedModelRecord]:
    return lambda model: replace(model, expire_time=time)


def test_a_change_is_in_the_index_and_in_the_file(
    open_store: OpenStore,
    folder: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    """A lost index must not bring back an expiry that was changed."""
    with open_store() as store:
        first = store.put(make_model(), make_arrays())
        changed = store.change("a1", until(2500.0))
        changed = store.change("a1", until(3000.0))

        assert (changed.expire_time, changed.revision) == (3000.0, 2)
        assert changed.etag != first.etag
        assert store.get("a1") == changed
        assert_same(store.read("a1"), make_arrays())
        assert changed.size_bytes == (folder / "models" / "a1.safetensors").stat().st_size
        with pytest.raises(AdaptedModelNotFound):
            store.change("a1", until(9.0), "other")
    index = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    index.execute("UPDATE adapted_models SET expire_time = 1.0")
    index.close()
    with open_store() as store:
        assert store.get("a1") == changed
        assert_same(store.read("a1"), make_arrays())


def test_a_refused_change_changes_nothing(
    store: LocalStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    first = store.put(make_model(), make_arrays())

    def refuse(_: AdaptedModelRecord) -> AdaptedModelRecord:
        raise LookupError

    with pytest.raises(LookupError):
        store.change("a1", refuse)
    assert store.get("a1") == first
    clock.now = 2000.0
    with pytest.raises(AdaptedModelExpired):
        store.change("a1", until(3000.0))


def test_a_model_that_expires_meanwhile_stays_expired(
    store: LocalStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Another caller may have heard already that it has expired."""
    store.put(make_model(), make_arrays())

    def slow(model: AdaptedModelRecord) -> AdaptedModelRecord:
        clock.now = 2000.0
        return replace(model, expire_time=3000.0)

    with pytest.raises(AdaptedModelExpired):
        store.change("a1", slow)
    with pytest.raises(AdaptedModelExpired):
        store.get("a1")
    assert store.sweep() == 1


@pytest.mark.parametrize("lost", [False, True])
def test_a_crash_before_the_rename_keeps_the_change(
    open_store: OpenStore,
    folder: Path,
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    monkeypatch: pytest.MonkeyPatch,
    lost: bool,
) -> None:
    """The row says which of two files it is; without it the newer one."""
    crashed, finish = tmp_path / "crashed", StoreFiles.finish

    def crash(files: StoreFiles, model_id: str) -> None:
        shutil.copytree(folder, crashed)
        finish(files, model_id)

    with open_store() as store:
        store.put(make_model(), make_arrays())
        monkeypatch.setattr(StoreFiles, "finish", crash)
        changed = store.change("a1", until(3000.0))
    monkeypatch.undo()
    assert [each.state for each in check_store(crashed).findings] in (["unfinished"], ["expired"])
    if lost:
        index = sqlite3.connect(crashed / "index.sqlite3", isolation_level=None)
        index.execute("UPDATE adapted_models SET model = 'other'")
        index.close()
    with LocalStore.open(crashed, max_count=9, max_bytes=10**7, clock=lambda: 1000.0) as store:
        assert store.get("a1") == changed
        assert_same(store.read("a1"), make_arrays())
        assert not list((crashed / "models").glob(".*"))


def test_a_change_that_fails_leaves_the_model(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_files: StoreFiles, _model_id: str) -> None:
        raise OSError(5, "Input/output error")

    with open_store() as store:
        first = store.put(make_model(), make_arrays())
        monkeypatch.setattr(StoreFiles, "finish", fail)
        with pytest.raises(StoreFailed):
            store.change("a1", until(3000.0))
        monkeypatch.undo()
        assert store.get("a1") == first
        assert_same(store.read("a1"), make_arrays())
    with open_store() as store:
        assert store.get("a1") == first


def test_a_damaged_model_is_not_changed(
    store: LocalStore, folder: Path, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    store.put(make_model(), make_arrays())
    (folder / "models" / "a1.safetensors").write_bytes(b"?")

    with pytest.raises(AdaptedModelDamaged):
        store.change("a1", until(3000.0))
