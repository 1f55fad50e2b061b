"""Tenants share a store; answers to request ids are written with the models that they made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    StoreIsFull,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import RequestAnswered, StoreFailed
from kshot.server.store.files import StoreFiles
from kshot.server.store.folder import StoreFolder
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.rows import AnsweredRequest

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
# No bytes are like it by chance.
_LONG_ID = "am-of-before-the-erasure"


def refused(store: LocalStore, model_id: str, tenant: str) -> None:
    """Hold that an id is as unknown as any other, in every method that takes one."""
    for method in (store.get, store.read, store.delete):
        with pytest.raises(AdaptedModelNotFound) as caught:
            method(model_id, tenant)
        assert caught.type is AdaptedModelNotFound
        assert str(caught.value) == str(AdaptedModelNotFound(model_id))


def test_a_model_is_its_tenants_alone(
    open_store: OpenStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Others do not even learn that an id was deleted or has expired."""
    with open_store() as store:
        for model_id in ("am-live", "am-deleted"):
            store.put(replace(make_model(model_id), tenant="ada"), make_arrays())
        store.put(replace(make_model("am-old", expire_time=1500.0), tenant="ada"), make_arrays())
        store.put(replace(make_model("am-other"), tenant="bob"), make_arrays())
        store.delete("am-deleted", "ada")
        clock.now = 1600.0
        for _ in range(2):
            for model_id in ("am-live", "am-deleted", "am-old"):
                refused(store, model_id, "bob")
            store.sweep()
        with pytest.raises(AdaptedModelDeleted):
            store.get("am-deleted", "ada")
        with pytest.raises(AdaptedModelExpired):
            store.get("am-old", "ada")
        assert [model.id for model in store.list(9, tenant="ada")[0]] == ["am-live"]
        assert store.list(9) == ([], "")
        assert store.use_by_tenant().keys() == {"ada", "bob"}
        assert store.use("ada") == store.use_by_tenant()["ada"]
    with open_store() as store:
        assert store.get("am-live", "ada").tenant == "ada"
        refused(store, "am-live", "bob")


def answer(model: AdaptedModelRecord) -> AnsweredRequest:
    return AnsweredRequest("ada", "r1", "b" * 64, model.id, b"\x00answer", 1600.0)


def test_a_request_is_kept_with_its_model(
    open_store: OpenStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    model = replace(make_model(), tenant="ada")
    with open_store(max_count=1) as store:
        kept = store.put(model, make_arrays(), answer)
        with pytest.raises(StoreIsFull):
            store.put(make_model("a2"), make_arrays(), lambda model: replace(answer(model)))
    with open_store() as store:
        assert store.find_request("r1", "ada") == answer(kept)
        assert store.find_request("r1", "bob") is None
        clock.now = 1600.0
        assert store.find_request("r1", "ada") is None
        store.sweep()
        clock.now = 1000.0
        assert store.find_request("r1", "ada") is None
        store.put(make_model("a3"), make_arrays(), answer)
        store.delete("a3")
        assert store.find_request("r1", "ada") is not None  # and its model answers `deleted`


def answer_of_its_own(model: AdaptedModelRecord) -> AnsweredRequest:
    return replace(answer(model), request_id=model.id)


def test_an_answer_is_kept_once(
    open_store: OpenStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Of a second one and its model nothing is left until the first is forgotten."""
    with open_store() as store:
        kept = store.put(make_model("a1"), make_arrays(), answer)
        with pytest.raises(RequestAnswered):
            store.put(make_model("a2"), make_arrays(), answer)
        assert store.find_request("r1", "ada") == answer(kept)
        with pytest.raises(AdaptedModelNotFound):
            store.get("a2")
        clock.now = 1600.0
        store.put(
            make_model("a3"), make_arrays(), lambda model: replace(answer(model), end_time=1700.0)
        )
        found = store.find_request("r1", "ada")
        assert found is not None
        assert found.adapted_model == "a3"


@pytest.mark.parametrize("way", ["deleted", "expired", "gone at the start"])
def test_an_answer_goes_with_its_model(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    way: str,
) -> None:
    """It says what was recognised in the pictures; its id stays for those who repeat it."""
    with open_store() as store:
        model = replace(make_model(expire_time=1100.0), tenant="ada")
        kept = store.put(model, make_arrays(), answer)
        other = store.put(make_model("a2"), make_arrays(), answer_of_its_own)
        if way == "deleted":
            store.delete("a1", "ada")
        elif way == "expired":
            clock.now = 1200.0
            store.sweep()
        else:
            store._files.empty(["a1"], deleted=True)
    with open_store() as store:
        assert store.find_request("r1", "ada") == replace(answer(kept), answer=b"")
        assert store.find_request("a2", "ada") == answer_of_its_own(other)
        with pytest.raises(AdaptedModelNotFound):
            store.get("a1", "ada")


def test_a_changed_answer_is_forgotten(
    open_store: OpenStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    with open_store() as store:
        store.put(make_model(), make_arrays(), answer)
        store._index._connection.execute("UPDATE requests SET answer = x'01'")
        assert store.find_request("r1", "ada") is None
    with open_store() as store:
        assert list(store._index.requests()) == []
        assert store.get("a1").id == "a1"


def holds(folder: Path, text: str) -> list[str]:
    """Return the files of a store that have a text in them or in their names."""
    return [
        str(path)
        for path in folder.rglob("*")
        if text in path.name or (path.is_file() and text.encode() in path.read_bytes())
    ]


def test_a_tenant_is_erased_and_others_stay(
    open_store: OpenStore,
    folder: Path,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
) -> None:
    """Also what it had deleted, what expired, what is damaged, and what a repair moved away."""

    def owned(model_id: str, tenant: str, expire_time: float = 2000.0) -> AdaptedModelRecord:
        model = make_model(model_id, expire_time=expire_time)
        # A long name fills pages of its own.
        names = (f"cat of {tenant}", f"dog of {tenant}" * 500)
        return replace(model, tenant=tenant, class_names=names)

    with open_store() as store:
        for tenant in ("ada", "bob"):
            for name in ("live", "deleted", "damaged"):
                store.put(owned(f"am-{tenant}-{name}", tenant), make_arrays(), answer_of_its_own)
            store.put(owned(f"am-{tenant}-old", tenant, 1500.0), make_arrays())
            store.delete(f"am-{tenant}-deleted", tenant)
            (folder / "models" / f"am-{tenant}-damaged.safetensors").write_bytes(b"?")
        with pytest.raises(AdaptedModelDamaged):
            store.read("am-ada-damaged", "ada")
    (folder / "index.sqlite3").unlink()
    StoreFolder.open(folder, lambda: 1000.0, repair=True).close()
    assert holds(folder / "quarantine", "ada")

    with open_store() as store:
        clock.now = 1600.0
        assert store.delete_tenant("ada") == 2
        assert (
            holds(folder, "of ada") == holds(folder, "ada-live") == holds(folder, "ada-old") == []
        )
        assert store.use_by_tenant().keys() == {"bob"}
        assert store.read("am-bob-live", "bob")
        assert store.delete_tenant("ada") == 0
        refused(store, "am-ada-live", "ada")
    with open_store() as store:
        assert holds(folder, "of ada") == []
        assert store.get("am-bob-live", "bob").class_names[0] == "cat of bob"


def test_a_call_of_before_an_erasure_keeps_nothing(
    open_store: OpenStore, folder: Path, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """It stored model, support set and request after the erasure had returned."""
    begun, model = time.perf_counter(), replace(make_model(_LONG_ID), tenant="ada")
    with open_store() as store:
        store.delete_tenant("ada")
        with pytest.raises(AdaptedModelDeleted):
            store.put(model, make_arrays(), answer, begun=begun)
        assert store.find_request("r1", "ada") is None
        assert store.use_by_tenant() == {}
        assert holds(folder, _LONG_ID) == []

        store.put(replace(model, tenant="bob"), make_arrays(), begun=begun)
        store.put(replace(model, id="a2"), make_arrays(), answer, begun=time.perf_counter())


@pytest.mark.parametrize("method", ["change", "replace"])
def test_a_change_from_before_an_erasure_keeps_nothing(
    open_store: OpenStore,
    folder: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    with open_store() as store:
        model = store.put(replace(make_model(_LONG_ID), tenant="ada"), make_arrays())
        write = StoreFiles.write

        def erase_then_write(files: StoreFiles, *given: Any) -> None:  # noqa: ANN401 -- as `write`
            store.delete_tenant("ada")
            write(files, *given)

        monkeypatch.setattr(StoreFiles, "write", erase_then_write)
        with pytest.raises(AdaptedModelNotFound):
            if method == "change":
                store.change(_LONG_ID, lambda found: found, "ada")
            else:
                store.replace(model, model, make_arrays(1))
        assert holds(folder, _LONG_ID) == []


def test_what_interrupts_an_erasure_leaves_nothing_for_callers(
    open_store: OpenStore,
    folder: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_files: StoreFiles, _ids: object) -> None:
        raise OSError(5, "Input/output error")

    with open_store() as store:
        store.put(replace(make_model(_LONG_ID), tenant="ada"), make_arrays())
        monkeypatch.setattr(StoreFiles, "remove", fail)
        with pytest.raises(StoreFailed):
            store.delete_tenant("ada")
        monkeypatch.undo()
        with pytest.raises(AdaptedModelDeleted):
            store.get(_LONG_ID, "ada")
    with open_store() as store:
        store.delete_tenant("ada")
        assert holds(folder, _LONG_ID) == holds(folder, "class 0") == []


def test_the_oldest_of_many_answers_are_forgotten(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kshot.server.store.tables.index._MOST_ANSWERS", (2, 100))
    monkeypatch.setattr("kshot.server.store.tables.index._TRIM_AFTER", 1)
    arrays = make_arrays()

    with open_store() as store:

        def put(number: int, tenant: str, size_bytes: int) -> None:
            made = replace(make_model(f"{tenant}{number}"), tenant=tenant)
            content, end_time = bytes(size_bytes), 1600.0 + number
            kept = AnsweredRequest(tenant, f"r{number}", "b", made.id, content, end_time)
            store.put(made, arrays, lambda _: kept)

        def known(tenant: str) -> list[int]:
            return [each for each in range(5) if store.find_request(f"r{each}", tenant)]

        for number, size_bytes in enumerate([10, 10, 10, 95]):
            put(number, "ada", size_bytes)
        put(0, "bob", 10)

        assert known("ada") == [3]  # of three the newest two, and those of 100 bytes in all
        assert known("bob") == [0]


def test_each_tenant_has_its_answers_trimmed(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where others' answers came at each third place, a tenant kept all of its own."""
    monkeypatch.setattr("kshot.server.store.tables.index._MOST_ANSWERS", (2, 1000))
    monkeypatch.setattr("kshot.server.store.tables.index._TRIM_AFTER", 3)
    arrays = make_arrays()

    with open_store(max_count=9) as store:
        for number, tenant in enumerate(["ada", "ada", "bob", "ada", "ada", "bob"]):
            kept = AnsweredRequest(tenant, f"r{number}", "b", f"a{number}", b"", 1600.0 + number)
            store.put(replace(make_model(f"a{number}"), tenant=tenant), arrays, lambda _, k=kept: k)

        known = [each for each in range(6) if store.find_request(f"r{each}", "ada")]
        assert known == [3, 4]
