"""Files that are not what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import StoreFailed
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]
FileOf = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "missing"])
def test_a_damaged_file_is_quarantined(
    store: LocalStore,
    folder: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    kind: str,
    open_store: OpenStore,
    assert_same: AssertSame,
    file_of: FileOf,
) -> None:
    for model_id in ("bad", "good"):
        store.put(make_model(model_id), make_arrays())
    path = file_of("bad")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"flipped": bytes(content), "truncated": bytes(content[:-1]), "emptied": b""}[kind]
        )

    for _ in range(2):
        with pytest.raises(AdaptedModelDamaged, match="bad is damaged in the store; adapt again"):
            store.read("bad")
    assert not path.exists()
    assert (folder / "quarantine" / path.name).exists() == (kind != "missing")
    assert_same(store.read("good"), make_arrays())
    assert [model.id for model in store.list(10)[0]] == ["good"]

    store.close()
    with open_store(max_count=9) as again:
        for call in (again.get, again.read):
            with pytest.raises(AdaptedModelDamaged):
                call("bad")
        again.delete("bad")
        with pytest.raises(AdaptedModelDeleted):
            again.get("bad")
        assert list((folder / "quarantine").iterdir()) == []


def test_an_expired_models_damaged_file_goes_too(
    store: LocalStore,
    folder: Path,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
) -> None:
    store.put(make_model(), make_arrays())
    file_of("a1").write_bytes(b"damaged")
    with pytest.raises(AdaptedModelDamaged):
        store.read("a1")
    clock.now = 2000.0
    store.sweep()

    assert list((folder / "quarantine").iterdir()) == []
    with pytest.raises(AdaptedModelExpired):
        store.read("a1")


def test_a_failed_read_is_not_damage(
    store: LocalStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: AssertSame,
) -> None:
    def fail(_model_id: str) -> bytes:
        raise OSError(24, "Too many open files")

    store.put(make_model(), make_arrays())
    with monkeypatch.context() as patched:
        patched.setattr(store._files, "read", fail)
        with pytest.raises(StoreFailed, match="Too many open files"):
            store.read("a1")

    assert_same(store.read("a1"), make_arrays())
