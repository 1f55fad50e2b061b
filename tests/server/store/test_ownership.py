"""Links, pipes, folders and other users in the place of what the store makes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot.server.errors import AdaptedModelDamaged, StartError
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
FileOf = Callable[[str], Path]

MADE = ("models", "quarantine", "index.sqlite3", "lock")


def make_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere")


def make_socket(path: Path) -> None:
    place = os.open(path.parent, os.O_RDONLY)  # a path of its own may be too long for a socket
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{place}/{path.name}")
    os.close(place)


def test_an_existing_folder_gets_private_files(
    folder: Path, open_store: OpenStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Others may read the folder itself, which somebody made, but nothing in it."""
    folder.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        with open_store() as store:
            store.put(make_model(), make_arrays())
            store.delete("a1")
            store.put(make_model("a2"), make_arrays())
            modes = {path: path.stat().st_mode & 0o077 for path in folder.rglob("*")}
    finally:
        os.umask(before)

    assert {path.name for path in modes} >= {"index.sqlite3-wal", "a2.safetensors"}
    assert set(modes.values()) == {0}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_modes_of_an_earlier_release_are_tightened(folder: Path, open_store: OpenStore) -> None:
    open_store().close()
    for name, mode in (("models", 0o755), ("index.sqlite3", 0o644), ("lock", 0o666)):
        (folder / name).chmod(mode)
    open_store().close()

    assert {(folder / name).stat().st_mode & 0o077 for name in MADE} == {0}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(
    folder: Path, open_store: OpenStore, mode: int
) -> None:
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(StartError, match=f"only they write to, got user .* mode {mode:o}; chown"):
        open_store()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
@pytest.mark.parametrize("name", ["", *MADE])
def test_what_another_user_owns_is_refused(folder: Path, open_store: OpenStore, name: str) -> None:
    open_store().close()
    os.chown(folder / name, 65534, 65534)

    with pytest.raises(StartError, match=r"of user 0.* got user 65534"):
        open_store()


@pytest.mark.parametrize("name", [*MADE, "index.sqlite3-wal", "index.sqlite3-shm"])
@pytest.mark.parametrize("make", [make_link, os.mkfifo, make_socket])
def test_a_link_or_a_pipe_is_refused(
    folder: Path, open_store: OpenStore, name: str, make: Callable[[Path], None]
) -> None:
    """Nothing behind a link is touched."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a1.safetensors").write_bytes(b"somebody's")
    folder.mkdir(mode=0o700)
    make(folder / name)

    with pytest.raises(StartError, match=f"{name}: expected a .* got a (link|pipe|socket); move"):
        open_store()
    assert [path.name for path in elsewhere.iterdir()] == ["a1.safetensors"]


def test_a_link_to_the_folder_itself_is_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(folder)
    LocalStore.open(tmp_path / "link", max_count=9, max_bytes=9).close()

    assert (folder / "index.sqlite3").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, make_link, make_socket])
def test_what_is_no_file_does_not_stop_the_start(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    make: Callable[[Path], None],
) -> None:
    """In the place of a model it is damage; elsewhere it is none of ours. It is left alone."""
    with open_store() as store:
        for model_id in ("a1", "a2", "a3"):
            store.put(make_model(model_id), make_arrays())
        file_of("a2").unlink()
        make(file_of("a2"))
        with pytest.raises(AdaptedModelDamaged):
            store.read("a2")
    file_of("a3").unlink()
    for model_id in ("a3", "am-" + "a" * 26, ".a4"):
        make(file_of(model_id))
    strange = os.fsencode(file_of("a1").parent) + b"/\xff\xfe.safetensors"
    Path(os.fsdecode(strange)).write_bytes(b"?")

    for _ in range(2):
        with open_store() as store:
            assert [model.id for model in store.list(9)[0]] == ["a1"]
            store.read("a1")
            with pytest.raises(AdaptedModelDamaged):
                store.read("a3")
    with open_store() as store:
        store.delete("a3")
        store.delete("a1")
        store.sweep()
    assert stat.S_IFMT(file_of(".a4").lstat().st_mode) != stat.S_IFREG
    assert os.path.lexists(strange)
