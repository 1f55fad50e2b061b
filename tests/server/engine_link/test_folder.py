"""What a killed server leaves is removed, and nothing else."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kshot.server.config import ServerConfig
from kshot.server.engine_link.folder import EngineFolder, remove_leftovers
from kshot.server.engine_link.process import EngineProcess, EngineSetting
from kshot.server.errors import StartError

LOCK = ".kshot-engine.lock"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder; sockets want a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_folders_of_the_dead_go_and_those_of_the_living_stay(place: Path) -> None:
    alive, dead = EngineFolder.make(), EngineFolder.make()
    assert alive.path.parent == place
    inherited = os.dup(dead.lock)  # as the engine's
    (dead.path / "unpacked").mkdir()
    os.close(dead.lock)

    remove_leftovers()
    assert dead.path.exists()
    os.close(inherited)
    remove_leftovers()

    assert alive.path.exists()
    assert not dead.path.exists()
    alive.remove()
    assert not alive.path.exists()


def test_what_cannot_be_proved_to_be_left_stays(place: Path) -> None:
    """Folders without our lock or with something else of its name, links, and files."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (place / "kshot-link").symlink_to(elsewhere)
    (place / "kshot-file").touch()
    for name in ("none", "linked", "fifo", "folder"):
        (place / f"kshot-{name}").mkdir()
    (place / "kshot-linked" / LOCK).symlink_to(elsewhere / LOCK)
    os.mkfifo(place / "kshot-fifo" / LOCK)
    (place / "kshot-folder" / LOCK).mkdir()
    before = sorted(place.rglob("*"))

    remove_leftovers()

    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("call", ["os.open", "fcntl.flock", "pathlib.Path.rename"])
def test_a_folder_that_cannot_be_made_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Neither a folder, which nobody could prove to be left, nor a descriptor."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    free = os.dup(0)
    os.close(free)
    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match="Too many open files"):
        EngineFolder.make()
    monkeypatch.undo()

    assert not list(place.iterdir())
    assert os.dup(0) == free
    os.close(free)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), OSError(errno.EAGAIN, "Try again")])
def test_an_engine_that_never_begins_leaves_no_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A server that is stopped meanwhile cancels the start."""

    async def fail(*_: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    config = ServerConfig((Path("bundle"),), Path("store"))

    with pytest.raises((asyncio.CancelledError, StartError)):
        asyncio.run(EngineProcess.start(config, EngineSetting(), config.bundles))

    assert not list(place.iterdir())
