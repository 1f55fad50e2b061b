"""`kshot store backup` and `kshot store restore`, while a server has the store."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.server.errors import AdaptedModelDeleted, AdaptedModelNotFound, StartError
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.upkeep import backup, index_copy
from kshot.server.upkeep.backup_manifest import BackupManifest
from kshot.server.upkeep.command import command
from kshot.server.upkeep.restore import restore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def answer(model: AdaptedModelRecord) -> AnsweredRequest:
    return AnsweredRequest("", f"for {model.id}", "b" * 64, model.id, b"\x00", 1600.0)


@pytest.fixture
def filled(store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays) -> LocalStore:
    """A store in use, of three models, and one that was deleted."""
    for seed, model_id in enumerate(("a0", "a1", "a2", "gone")):
        store.put(make_model(model_id), make_arrays(seed), answer)
    store.delete("gone")
    return store


def test_a_backup_taken_while_serving_becomes_a_store(
    filled: LocalStore,
    folder: Path,
    tmp_path: Path,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    saved, moved = tmp_path / "saved", tmp_path / "moved"

    assert run("backup", folder, saved).stdout == f"{saved}: 3 models, 3 of them copied now\n"
    assert run("restore", saved, moved).stdout == f"{moved}: 3 models\n"

    with LocalStore.open(moved, max_count=9, max_bytes=10**7, clock=lambda: 1000.0) as other:
        for seed, model_id in enumerate(("a0", "a1", "a2")):
            assert other.get(model_id) == filled.get(model_id)
            assert_same(other.read(model_id), make_arrays(seed))
        with pytest.raises(AdaptedModelDeleted):
            other.get("gone")
        assert other.find_request("for a1") == answer(filled.get("a1"))
    assert not list(saved.rglob("*-wal"))
    assert json.loads(run("check", moved, "--json").stdout)["sound"]


def test_what_changes_meanwhile_fits_together(
    filled: LocalStore,
    folder: Path,
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are copied after the index: some are gone by then, or newer."""
    copy = backup.copy_running_index

    def then_change(index: Path, into: Path) -> StoreIndex:
        copied = copy(index, into)
        filled.delete("a0")
        filled.change("a1", lambda model: replace(model, expire_time=3000.0))
        filled.put(make_model("late"), make_arrays())
        (folder / "models" / "a2.safetensors").write_bytes(b"?")
        return copied

    monkeypatch.setattr(backup, "copy_running_index", then_change)
    done = backup.back_up(folder, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "moved")

    assert (done.models, done.gone, done.damaged) == (1, 1, 1)
    with LocalStore.open(
        tmp_path / "moved", max_count=9, max_bytes=10**7, clock=lambda: 1000.0
    ) as other:
        assert other.get("a1") == filled.get("a1")
        assert [model.id for model in other.list(9)[0]] == ["a1"]
        assert other.find_request("for a0") is None
        for model_id in ("a0", "late"):
            with pytest.raises(AdaptedModelNotFound):
                other.get(model_id)


def test_a_later_backup_copies_what_is_new(
    filled: LocalStore,
    folder: Path,
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is interrupted leaves the earlier one; what was deleted goes from the next."""
    saved = tmp_path / "saved"
    backup.back_up(folder, saved)
    filled.delete("a0")
    filled.put(make_model("a3"), make_arrays())

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BackupManifest, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        backup.back_up(folder, saved)
    monkeypatch.undo()
    assert set(restore(saved, tmp_path / "old").models) == {"a0", "a1", "a2"}

    document = json.loads(run("backup", folder, saved, "--json").stdout)
    assert (document["models"], document["copied"]) == (3, 0)
    assert set(restore(saved, tmp_path / "new").models) == {"a1", "a2", "a3"}
    assert not [path for path in saved.rglob("*") if path.name.startswith("a0")]
    assert len(list(saved.glob("index-*"))) == 1


def test_a_changed_backup_is_refused_before_anything_is_written(
    filled: LocalStore, folder: Path, tmp_path: Path
) -> None:
    assert filled.get("a0")
    saved, moved = tmp_path / "saved", tmp_path / "moved"
    backup.back_up(folder, saved)
    names = ["manifest.json", *(f"models/{path.name}" for path in (saved / "models").iterdir())]
    names += [path.name for path in saved.glob("index-*")]
    for name in names:
        whole = (saved / name).read_bytes()
        middle = len(whole) // 2
        (saved / name).write_bytes(
            whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        )
        with pytest.raises(StartError, match=r"changed|manifest of a backup"):
            restore(saved, moved)
        assert not moved.exists()
        (saved / name).write_bytes(whole)
    (saved / "manifest.json").unlink()
    with pytest.raises(StartError, match="expected a whole backup"):
        restore(saved, moved)


def test_folders_with_other_things_are_left_alone(
    filled: LocalStore, folder: Path, tmp_path: Path
) -> None:
    assert filled.get("a0")
    saved, moved = tmp_path / "saved", tmp_path / "moved"
    backup.back_up(folder, saved)
    moved.mkdir(mode=0o700)
    (moved / "thesis.txt").write_text("mine")

    assert "expected an empty folder, found 'thesis.txt'" in run("restore", saved, moved).stderr
    assert "found 'thesis.txt'" in run("backup", folder, moved).stderr
    assert "outside the store" in run("backup", folder, folder / "saved").stderr
    assert "expected the folder of a store" in run("backup", tmp_path / "no", tmp_path / "b").stderr
    (moved / "thesis.txt").rename(moved / ".restoring")
    (moved / "models").mkdir()
    (moved / "models" / "half").write_text("of a restore that was killed")
    assert run("restore", saved, moved).exit_code == 0
    assert not (moved / ".restoring").exists()
    assert not (moved / "models" / "half").exists()


def test_nobody_else_reads_a_copy(filled: LocalStore, folder: Path, tmp_path: Path) -> None:
    """Also not in a folder that others may list, or what an earlier backup left open."""
    saved, moved = tmp_path / "saved", tmp_path / "moved"
    before = os.umask(0o022)
    try:
        for path in (saved, moved):
            path.mkdir(mode=0o755)
        (saved / "models").mkdir(mode=0o755)
        backup.back_up(folder, saved)
        for path in saved.rglob("*.*"):
            path.chmod(0o644)
        filled.delete("a0")
        backup.back_up(folder, saved)
        restore(saved, moved)
    finally:
        os.umask(before)

    found = [each for path in (saved, moved) for each in path.rglob("*") if each.name[0] != "."]
    assert len(found) == 9
    assert {stat.S_IMODE(each.stat().st_mode) for each in found if each.is_file()} == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in found if each.is_dir()} == {0o700}


def test_copies_fit_while_models_come_and_go(
    open_store: OpenStore,
    folder: Path,
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
) -> None:
    """The log is taken in and begins anew all the time; a copy has all that came before it."""
    stop, made = threading.Event(), threading.Semaphore(0)
    known, arrays = list[str](), make_arrays()

    with open_store(max_count=10_000, max_bytes=10**9) as store:

        def write() -> None:
            for number in range(10_000):
                if stop.is_set():
                    return
                store.put(make_model(f"m{number}"), arrays)
                known.append(f"m{number}")
                made.release()
                if number % 3 == 0:
                    store.delete(f"m{number}")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                for _ in range(8):
                    assert made.acquire(timeout=60)
                before = list(known)
                with_index = index_copy.copy_running_index(
                    folder / "index.sqlite3", tmp_path / f"copy{number}"
                )
                rows = [row for _, _, row in with_index.rows()]
                graves = [grave for _, _, grave in with_index.tombstones()]
                with_index.close()
                assert None not in rows
                found = {row.id for row in rows if row} | {grave.id for grave in graves if grave}
                assert set(before) <= found
        finally:
            stop.set()
            writer.join()
