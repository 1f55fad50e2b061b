"""What a killed server leaves is removed, and nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kshot.server.engine_link.folder import EngineFolder, remove_leftovers

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
