"""A model in memory waits for no disk and ends with its process, without a trace or a complaint."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    StoreIsFull,
)
from kshot.server.request.options import Durability
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import DiskFull
from kshot.server.store.store import LocalStore
from kshot.server.store.tables import index as index_module
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.upkeep.command import command

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]
ANSWER = AnsweredRequest("", "id", "digest", "m1", b"answer", 2000.0)


@pytest.fixture
def model(make_model: MakeModel) -> AdaptedModelRecord:
    """The record of a model in memory, `m1`."""
    made = make_model("m1")
    return replace(made, options=replace(made.options, durability=Durability.MEMORY))


def answer(_: AdaptedModelRecord) -> AnsweredRequest:
    return ANSWER


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


def test_nothing_is_synced(
    store: LocalStore,
    model: AdaptedModelRecord,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLite syncs by itself at a commit or when it takes its log in: it is told not to."""
    told: list[str] = []
    synced: list[int] = []
    store._index._connection.set_trace_callback(told.append)
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    kept = store.put(model, make_arrays(), answer)
    store._index._connection.set_trace_callback(None)

    assert synced == []
    unsynced = {"PRAGMA wal_autocheckpoint = 0", "PRAGMA synchronous = NORMAL"}
    assert unsynced <= set(told[: told.index("COMMIT")])
    assert store.get("m1") == kept
    assert_same(store.read("m1"), make_arrays())
    assert store.list(9)[0] == [kept]
    assert store.find_request("id") == ANSWER
    assert store.use() == (1, kept.size_bytes)


@pytest.mark.parametrize("lost", ["", "row", "file", "index"])
def test_the_next_start_drops_it(
    open_store: OpenStore,
    folder: Path,
    model: AdaptedModelRecord,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """A power cut may leave its file or its row alone, or half of the file."""
    with open_store() as store:
        store.put(make_model(), make_arrays())
        store.put(replace(model, expire_time=1e12), make_arrays(), answer)
        if lost == "row":
            store._index.forget("m1")
        elif lost == "index":
            store._index._connection.execute("UPDATE adapted_models SET model = ? ", ("?",))
    file = folder / "models" / "m1.memory"
    if lost == "file":
        file.unlink()
    else:
        os.truncate(file, 9)
    found = json.loads(CliRunner().invoke(command, ["check", str(folder), "--json"]).stdout)
    told: list[object] = []
    monkeypatch.setattr(
        "kshot.server.store.recovery.log_event", lambda *_, **counts: told.append(counts)
    )

    with open_store() as store:
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("m1")
        assert [each.id for each in store.list(9)[0]] == ["a1"]
        assert store.find_request("id") is None
    assert names(folder) == {"a1.safetensors"}
    if lost != "index":
        assert told == []
        assert found["sound"]
        assert {"id": "m1", "state": "leftover"}.items() <= found["models"][-1].items()


def test_it_is_changed_and_goes_as_others_do(
    open_store: OpenStore,
    folder: Path,
    clock: SimpleNamespace,
    model: AdaptedModelRecord,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    with open_store() as store:
        for each in ("m1", "m2", "m3"):
            kept = store.put(replace(model, id=each), make_arrays())
        assert store.change("m1", lambda old: replace(old, expire_time=3000.0)).in_memory
        again = replace(kept, bundle_digest="e" * 64)
        assert store.replace(kept, again, make_arrays(7)).in_memory
        assert_same(store.read("m3"), make_arrays(7))
        assert names(folder) == {"m1.memory", "m2.memory", "m3.memory"}
        store.delete("m2")
        with pytest.raises(AdaptedModelDeleted):
            store.get("m2")
        clock.now = 2500.0
        assert store.sweep() == 1
        with pytest.raises(AdaptedModelExpired):
            store.get("m3")
        assert_same(store.read("m1"), make_arrays())
        assert names(folder) == {"m1.memory"}


def test_damage_is_told_until_the_process_ends(
    open_store: OpenStore, folder: Path, model: AdaptedModelRecord, make_arrays: MakeArrays
) -> None:
    with open_store() as store:
        store.put(model, make_arrays())
        (folder / "models" / "m1.memory").write_bytes(b"?")
        with pytest.raises(AdaptedModelDamaged):
            store.read("m1")
        with pytest.raises(AdaptedModelDamaged):
            store.get("m1")
    with open_store() as store, pytest.raises(AdaptedModelNotFound, match="there is no"):
        store.get("m1")
    assert not list((folder / "quarantine").iterdir())


def test_a_refused_one_leaves_nothing(
    open_store: OpenStore,
    folder: Path,
    model: AdaptedModelRecord,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts for the store's limits."""

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with open_store(max_count=1) as store:
        with monkeypatch.context() as patched:
            patched.setattr(StoreIndex, "insert", full)
            with pytest.raises(DiskFull):
                store.put(model, make_arrays())
        assert names(folder) == set()
        store.put(model, make_arrays())
        with pytest.raises(StoreIsFull):
            store.put(replace(model, id="m2"), make_arrays())
    assert names(folder) == {"m1.memory"}


def test_the_log_is_taken_in_by_another_thread(
    open_store: OpenStore,
    model: AdaptedModelRecord,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, take_in = threading.Event(), StoreIndex.take_in
    threads: list[str] = []

    def note(index: StoreIndex) -> None:
        take_in(index)
        threads.append(threading.current_thread().name)
        taken.set()

    monkeypatch.setattr(index_module, "_UNSYNCED_ROWS", 2)
    monkeypatch.setattr(StoreIndex, "take_in", note)
    with open_store() as store:
        store.put(model, make_arrays())
        assert not threads
        store.put(replace(model, id="m2"), make_arrays())
        assert taken.wait(30)
    assert [name.partition("_")[0] for name in threads] == ["kshot-sync"]


def test_backups_leave_it_out(
    store: LocalStore,
    folder: Path,
    tmp_path: Path,
    model: AdaptedModelRecord,
    make_model: MakeModel,
    make_arrays: MakeArrays,
) -> None:
    store.put(make_model(), make_arrays())
    store.put(model, make_arrays(), answer)
    saved, moved = tmp_path / "saved", tmp_path / "moved"

    told = CliRunner().invoke(command, ["backup", str(folder), str(saved)])
    restored = CliRunner().invoke(command, ["restore", str(saved), str(moved)])

    expected = f"{saved}: 1 models, 1 of them copied now, 1 in memory left out\n"
    assert (told.exit_code, told.stdout) == (0, expected)
    assert restored.exit_code == 0
    with LocalStore.open(moved, max_count=9, max_bytes=10**7, clock=lambda: 1000.0) as other:
        assert [each.id for each in other.list(9)[0]] == ["a1"]
        assert other.find_request("id") is None
