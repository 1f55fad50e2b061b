"""What is deleted or has expired is gone, and remembered for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import (
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import StoreFailed
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
FileOf = Callable[[str], Path]

DAY = 24 * 3600.0


class TestDelete:
    def test_leaves_no_file_and_remembers(
        self, store: LocalStore, folder: Path, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        store.put(make_model(), make_arrays())
        store.delete("a1")

        assert list((folder / "models").iterdir()) == []
        for call in (store.get, store.read, store.delete):
            with pytest.raises(AdaptedModelDeleted):
                call("a1")

    def test_a_racing_read_says_deleted(
        self,
        store: LocalStore,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        store.put(make_model(), make_arrays())
        read = store._files.read

        def delete_first(model_id: str) -> bytes:
            store.delete(model_id)
            return read(model_id)

        monkeypatch.setattr(store._files, "read", delete_first)

        with pytest.raises(AdaptedModelDeleted):
            store.read("a1")

    def test_the_next_sweep_removes_a_left_file(
        self,
        store: LocalStore,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        monkeypatch: pytest.MonkeyPatch,
        file_of: FileOf,
    ) -> None:
        def fail(_model_id: str) -> None:
            raise OSError(5, "Input/output error")

        store.put(make_model(), make_arrays())
        with monkeypatch.context() as patched:
            patched.setattr(store._files, "remove", fail)
            with pytest.raises(StoreFailed, match="Input/output error"):
                store.delete("a1")
        store.sweep()

        assert not file_of("a1").exists()
        with pytest.raises(AdaptedModelDeleted):
            store.get("a1")


class TestExpiry:
    def test_an_expired_model_is_gone(
        self,
        store: LocalStore,
        folder: Path,
        clock: SimpleNamespace,
        make_model: MakeModel,
        make_arrays: MakeArrays,
    ) -> None:
        store.put(make_model("short", expire_time=1500.0), make_arrays())
        store.put(make_model("long", expire_time=9000.0), make_arrays())
        clock.now = 1500.0

        for swept in (0, 1):
            for call in (store.get, store.read, store.delete):
                with pytest.raises(AdaptedModelExpired) as caught:
                    call("short")
                assert caught.value.metadata["expire_time"] == "1970-01-01T00:25:00+00:00"
            assert store.sweep() == 1 - swept
        assert [path.name for path in (folder / "models").iterdir()] == ["long.safetensors"]
        assert store.get("long").id == "long"

    def test_tombstones_go_after_seven_days(
        self,
        store: LocalStore,
        clock: SimpleNamespace,
        make_model: MakeModel,
        make_arrays: MakeArrays,
    ) -> None:
        store.put(make_model("deleted"), make_arrays())
        store.put(make_model("expired", expire_time=1000.5), make_arrays())
        store.delete("deleted")
        clock.now = 1001.0
        store.sweep()
        clock.now = 1000.0 + 7 * DAY - 1
        store.sweep()

        with pytest.raises(AdaptedModelDeleted):
            store.get("deleted")
        with pytest.raises(AdaptedModelExpired):
            store.get("expired")

        clock.now = 1001.0 + 7 * DAY
        store.sweep()

        for model_id in ("deleted", "expired"):
            with pytest.raises(AdaptedModelNotFound, match="there is no"):
                store.get(model_id)
