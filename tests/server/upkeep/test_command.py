"""`kshot store check` and `kshot store repair`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.server.errors import AdaptedModelDamaged
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore
from kshot.server.upkeep.command import command

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]
FileOf = Callable[[str], Path]

FAR = 9e9  # the commands use the machine's clock


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.fixture
def stopped(
    folder: Path, open_store: OpenStore, make_model: MakeModel, make_arrays: MakeArrays
) -> Path:
    """A store of three models and one that was deleted."""
    with open_store() as store:
        for seed, model_id in enumerate(("a0", "a1", "a2")):
            store.put(make_model(model_id, expire_time=FAR), make_arrays(seed))
        store.put(make_model("gone", expire_time=FAR), make_arrays())
        store.delete("gone")
    return folder


def partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_healthy_store_is_sound(stopped: Path) -> None:
    before = content_of(stopped)
    checked = run("check", stopped)
    document = json.loads(run("check", stopped, "--json").stdout)

    assert (checked.exit_code, checked.stdout) == (0, f"{stopped}: 3 healthy\n")
    assert document["sound"] and document["counts"] == {"healthy": 3}
    assert content_of(stopped) == before


def test_damage_is_named_and_repaired(
    stopped: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    file_of: FileOf,
) -> None:
    content = bytearray(file_of("a1").read_bytes())
    content[-1] ^= 1
    file_of("a1").write_bytes(content)
    before = content_of(stopped)
    checked = run("check", stopped)

    assert checked.exit_code == 1
    assert "a1  damaged: its file was changed\n" in checked.stdout
    assert f"kshot store repair {stopped}" in checked.stderr
    assert content_of(stopped) == before

    repaired = run("repair", stopped)

    assert (repaired.exit_code, run("check", stopped).exit_code) == (0, 0)
    assert "a1  quarantined\n" in repaired.stdout
    assert (stopped / "quarantine" / "a1.safetensors").read_bytes() == bytes(content)
    with open_store() as store:
        assert_same(store.read("a2"), make_arrays(2))
        with pytest.raises(AdaptedModelDamaged):
            store.read("a1")


@pytest.mark.parametrize("content", [None, b"", b"words" * 999, "half"])
def test_a_lost_index_comes_back_from_the_files(
    stopped: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    content: bytes | str | None,
) -> None:
    index = stopped / "index.sqlite3"
    old = index.read_bytes()
    index.unlink()
    if content is not None:
        index.write_bytes(old[: len(old) // 2] if isinstance(content, str) else content)
    checked = run("check", stopped, "--json")
    document = json.loads(checked.stdout)

    assert checked.exit_code == 1
    assert "the index is damaged" in document["index"] and str(stopped) in document["index"]
    assert document["counts"] == {"orphaned": 3}

    repaired = run("repair", stopped, "--json")

    assert json.loads(repaired.stdout)["counts"] == {"healthy": 3}
    if content:
        assert (stopped / "quarantine" / "index-1" / "index.sqlite3").stat().st_size
    with open_store() as store:
        for seed in range(3):
            assert_same(store.read(f"a{seed}"), make_arrays(seed))


def test_files_without_names_come_back_with_a_lost_index(
    stopped: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    file_of: FileOf,
) -> None:
    """Power may fail before the name of an acknowledged model is on disk."""
    for model_id in ("a0", "a1"):
        file_of(model_id).rename(partial_of(file_of(model_id)))
    half = file_of("a2").read_bytes()[:-1]
    partial_of(file_of("half")).write_bytes(half)
    (stopped / "index.sqlite3").unlink()

    assert json.loads(run("check", stopped, "--json").stdout)["counts"] == {"orphaned": 3}
    assert json.loads(run("repair", stopped, "--json").stdout)["counts"] == {"healthy": 3}
    with open_store() as store:
        for seed in range(3):
            assert_same(store.read(f"a{seed}"), make_arrays(seed))
    assert len(list((stopped / "models").iterdir())) == 3


@pytest.mark.parametrize("damaged", ["its row", "another row"])
def test_files_without_names_come_back_where_rows_were_lost(
    stopped: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    file_of: FileOf,
    damaged: str,
) -> None:
    file_of("a1").rename(partial_of(file_of("a1")))
    partial_of(file_of("new")).write_bytes(b"half")
    index = sqlite3.connect(stopped / "index.sqlite3")
    if damaged == "its row":
        index.execute("UPDATE adapted_models SET size_bytes = size_bytes + 1 WHERE id = 'a1'")
    else:
        index.execute("UPDATE adapted_models SET id = x'00' WHERE id = 'a1'")
    index.commit()
    index.close()

    with open_store() as store:
        assert_same(store.read("a1"), make_arrays(1))
        assert sorted(each.id for each in store.list(9)[0]) == ["a0", "a1", "a2"]
    assert len(list((stopped / "models").iterdir())) == 3


@pytest.mark.parametrize("statement", ["VACUUM", "ANALYZE"])
def test_an_index_that_an_operator_tidied_is_sound(
    stopped: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    statement: str,
) -> None:
    index = sqlite3.connect(stopped / "index.sqlite3")
    index.execute(statement)
    index.close()

    assert run("check", stopped).exit_code == 0
    with open_store() as store:
        assert_same(store.read("a1"), make_arrays(1))


def test_a_store_in_use_is_refused(folder: Path, open_store: OpenStore) -> None:
    with open_store():
        for name in ("check", "repair"):
            refused = run(name, folder)
            assert refused.exit_code == 1
            assert "in use by another process; stop it" in refused.stderr


@pytest.mark.parametrize("name", ["check", "repair"])
def test_what_is_no_store_stays_as_it_is(tmp_path: Path, name: str) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        refused = run(name, path)
        assert refused.exit_code == 1
        assert f"{path}: expected the folder of a store, found none" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_reads_what_has_not_expired_by_the_clock_of_the_store(
    folder: Path, make_model: MakeModel, make_arrays: MakeArrays, file_of: FileOf
) -> None:
    """The machine's clock was set ahead while the server ran: nothing expired by that."""
    with LocalStore.open(folder, max_count=9, max_bytes=10**7) as store:
        store._clock.skipped = 300 * 86400.0
        store.put(make_model("a1", expire_time=store.now() + 3600), make_arrays())
    assert json.loads(run("check", folder, "--json").stdout)["counts"] == {"healthy": 1}
    content = bytearray(file_of("a1").read_bytes())
    content[-1] ^= 1
    file_of("a1").write_bytes(content)

    assert json.loads(run("check", folder, "--json").stdout)["counts"] == {"damaged": 1}


@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_what_the_index_had_no_room_to_bury_is_no_damage(
    stopped: Path, file_of: FileOf, end: str
) -> None:
    file_of("a1").rename(file_of("a1").with_suffix(f".{end}"))
    checked = run("check", stopped, "--json")
    document = json.loads(checked.stdout)
    found = {finding["id"]: finding for finding in document["models"]}

    assert (checked.exit_code, document["sound"]) == (0, True)
    assert document["counts"] == {"healthy": 2, "leftover": 1}
    assert found["a1"]["detail"] == f"{end}; the next start removes its row"
