"""Who owns a store's folders and files: the user who runs the server, and nobody else writes.

Whoever can write into the folder decides what the server deletes and what models answer: links,
pipes and folders in the place of files are refused, as are folders of other users.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from kshot.local.durable import replacing
from kshot.server.errors import StartError

_OTHERS = 0o077
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def check_root(path: Path) -> None:
    """Make a store's folder if it is missing; raise `StartError` if others may write to it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()  # the operator may name a link; what it leads to counts
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise StartError(
            f"{path}: expected a folder of user {os.geteuid()} that only they write to, got user "
            f"{status.st_uid} and mode {stat.S_IMODE(status.st_mode):o}; chown and chmod it, or "
            "choose another folder"
        )


def private_folder(path: Path) -> None:
    """Make a folder of mode 700, or give one this mode; raise `StartError` if it is another's."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _make_private(path, stat.S_IFDIR)


def private_file(path: Path, *, create: bool = False) -> bool:
    """Give a file mode 600, and `create` it if it is missing; return whether it is there.

    Raises `StartError` if it is another user's or no file.
    """
    if create:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):
            os.close(os.open(path, flags, 0o600))
    try:
        _make_private(path, stat.S_IFREG)
    except FileNotFoundError:
        return False
    return True


def replace_private_file(path: Path, content: bytes) -> None:
    """Write a whole file of mode 600 in the place of `path`, durably; raise `OSError`."""
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)


def _make_private(path: Path, kind: int) -> None:
    status = path.lstat()
    found = stat.S_IFMT(status.st_mode)
    if found != kind:
        raise StartError(
            f"{path}: expected {_KINDS[kind]}, got {_KINDS.get(found, 'a device')}; move it away, "
            "or choose another folder"
        )
    if status.st_uid != os.geteuid():
        raise StartError(
            f"{path}: expected {_KINDS[kind]} of user {os.geteuid()}, got user {status.st_uid}; "
            "chown it, or choose another folder"
        )
    if status.st_mode & _OTHERS:
        path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)
