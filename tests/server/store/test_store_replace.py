"""Another adapted model in the place of one, under its id: durable, or not done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kshot.server.access.limits import Limits
from kshot.server.errors import AdaptedModelDeleted, QuotaExceeded, StoreIsFull
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import model_content
from kshot.server.store.failures import StoreFailed
from kshot.server.store.files import StoreFiles
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]


@pytest.fixture
def again(make_model: MakeModel) -> AdaptedModelRecord:
    """What an adaptation to another bundle made."""
    made = make_model(create_time=1500.0, expire_time=9000.0)
    return replace(made, bundle_digest="e" * 64, weights_digest="f" * 64, parent="a1")


def test_the_id_answers_with_another_model(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    again: AdaptedModelRecord,
) -> None:
    """What is its caller's stays: when it was made, and when it expires."""
    with open_store() as store:
        first = store.put(make_model(), make_arrays())

        replaced = store.replace(first, again, make_arrays(7, 3))
        assert store.replace(first, replace(again, weights_digest="0" * 64), make_arrays()) == (
            replaced
        )

    assert (replaced.create_time, replaced.expire_time) == (1000.0, 2000.0)
    assert (replaced.bundle_digest, replaced.parent) == ("e" * 64, "a1")
    assert replaced.etag != first.etag
    with open_store() as store:
        assert store.get("a1") == replaced
        assert_same(store.read("a1"), make_arrays(7, 3))


def test_a_deleted_model_does_not_come_back(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays, again: AdaptedModelRecord
) -> None:
    first = store.put(make_model(), make_arrays())
    store.delete("a1")

    with pytest.raises(AdaptedModelDeleted):
        store.replace(first, again, make_arrays())


def test_a_crash_before_the_rename_keeps_the_new_model(
    open_store: OpenStore,
    folder: Path,
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    again: AdaptedModelRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure leaves the old one."""
    crashed = tmp_path / "crashed"

    def crash(_files: StoreFiles, _model_id: str) -> None:
        shutil.copytree(folder, crashed)
        raise OSError(5, "Input/output error")

    with open_store() as store:
        first = store.put(make_model(), make_arrays())
        monkeypatch.setattr(StoreFiles, "finish", crash)
        with pytest.raises(StoreFailed):
            store.replace(first, again, make_arrays(7, 3))
        monkeypatch.undo()
        assert store.get("a1") == first
        assert_same(store.read("a1"), make_arrays())
    with LocalStore.open(crashed, max_count=9, max_bytes=10**7, clock=lambda: 1000.0) as store:
        assert store.get("a1").bundle_digest == "e" * 64
        assert_same(store.read("a1"), make_arrays(7, 3))


def test_growth_is_held_to_caps_and_quotas(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    again: AdaptedModelRecord,
) -> None:
    """What is refused leaves the old model, and its room; another put finds that free."""
    larger = make_arrays(7, 9, 20)
    grown = model_content(again, larger).size_bytes
    size = model_content(make_model(), make_arrays()).size_bytes
    with open_store(max_bytes=grown + size - 1) as store:
        first = store.put(make_model(), make_arrays())

        with pytest.raises(QuotaExceeded):
            store.replace(first, again, larger, Limits(max_bytes=first.size_bytes + 100))
        with pytest.raises(QuotaExceeded):
            store.change(
                "a1",
                lambda model: replace(model, class_names=("x" * 500, *model.class_names[1:])),
                limits=Limits(max_bytes=first.size_bytes),
            )
        assert store.get("a1") == first
        store.put(make_model("b1"), make_arrays())
        with pytest.raises(StoreIsFull):
            store.replace(first, again, larger)
        store.delete("b1")
        assert store.replace(first, again, larger).size_bytes == store.use()[1]
