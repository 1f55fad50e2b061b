"""The temporary folders of engines, and what a killed server has left of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from kshot.server.event_log import log_event

PREFIX = "kshot-"
_LOCK = ".kshot-engine.lock"
# A unix socket's path has 107 bytes at most; this leaves room for the folder and the name.
_MAX_FOLDER_BYTES = 64


@dataclass(frozen=True)
class EngineFolder:
    """A private folder for an engine's socket and the files that it unpacks.

    Front and engine hold its lock through one open file: it is free once both have ended.
    """

    path: Path
    lock: int
    """The descriptor of the locked file, for the engine to inherit."""

    @staticmethod
    def make() -> EngineFolder:
        """Make a folder whose path is short enough for a socket; leave none if that fails."""
        with ExitStack() as undo:  # it needs no descriptor: maybe none is left
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place()))
            undo.callback(path.rmdir)
            fresh = path / f"{_LOCK}.new"
            lock = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, lock)
            undo.callback(fresh.unlink)
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh.rename(path / _LOCK)  # nobody sees it unlocked
            undo.pop_all()
        return EngineFolder(path, lock)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def remove_leftovers() -> None:
    """Remove this user's folders whose front and engine have both ended.

    That is proved by their lock; a folder without one stays.
    """
    for path in Path(_place()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(lock).st_mode):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                    log_event("leftover_removed", folder=str(path))
            finally:
                os.close(lock)


def _place() -> str:
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _MAX_FOLDER_BYTES:
        return "/tmp"  # noqa: S108 -- mkdtemp makes a private folder in it
    return place
