"""The place that a user names for a result: a file, a link to one, a pipe or a device."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from kshot.local.durable import replacing

_IN_MEMORY_BYTES = 64 * 2**20


@contextmanager
def destination(path: Path) -> Iterator[BinaryIO]:
    """Open the place of a result; its content gets there when the block ends without an error.

    A regular file, or none, is replaced whole, with the permissions that it had; a link is
    followed and stays. Pipes, character devices and open descriptors (`/dev/stdout`) are written
    into. Raises `OSError`, in words with the remedy, for what cannot be written: a directory, a
    read-only file, a missing folder.
    """
    with _named(path):
        target = _target(path)
        if target is None:
            # Libraries seek in what they write, and half a result must not go into a pipe.
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as whole:
                yield cast(BinaryIO, whole)
                whole.seek(0)
                with _opened(path) as stream:
                    shutil.copyfileobj(whole, stream)
            return
        with replacing(target) as file:
            yield file
            _take_over(target, file.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write a whole result to the place that a user names, as `destination` does."""
    with destination(path) as file:
        file.write(content)


def check_destination(path: Path) -> None:
    """Raise before the work the `OSError` that `destination` would raise after it."""
    with _named(path):
        target = _target(path)
        if target is not None:
            with tempfile.TemporaryFile(dir=target.parent):
                pass


def leads_to_stdout(path: Path) -> bool:
    """Tell whether what is written to a path comes out of this process's stdout."""
    try:
        same = os.path.samestat(path.stat(), os.fstat(1))
        return same and (not path.is_file() or _descriptor(path) is not None)
    except OSError:
        return False


def _target(path: Path) -> Path | None:
    """Return the file to replace, None for what is written into."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return _new(path)
    except NotADirectoryError as error:
        raise OSError(errno.ENOTDIR, f"expected a folder, {path.parent} is a file") from error
    except ValueError as error:
        raise OSError(errno.EINVAL, "expected a path without NUL characters") from error
    kind = stat.S_IFMT(status.st_mode)
    if kind in (stat.S_IFIFO, stat.S_IFCHR) or _descriptor(path) is not None:
        return None
    if kind == stat.S_IFDIR:
        raise OSError(errno.EISDIR, "expected a file, got a directory; add a file's name to it")
    if kind != stat.S_IFREG:
        got = "a socket" if kind == stat.S_IFSOCK else "a block device"
        raise OSError(errno.EINVAL, f"expected a file or a pipe, got {got}")
    # The superuser may write everything, but nobody makes a file read-only for nothing.
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise OSError(
            errno.EACCES,
            "this file is read-only; choose another name, or allow it: "
            f"chmod u+w {shlex.quote(str(path))}",
        )
    return Path(os.path.realpath(path))


def _new(path: Path) -> Path:
    """Return the place of a file that does not exist yet, perhaps at the end of links."""
    if (number := _descriptor(path)) is not None:
        raise OSError(errno.EBADF, f"descriptor {number} is not open")
    target = Path(os.path.realpath(path))
    if target.parent.is_dir():
        return target
    folder = target.parent if path.is_symlink() else path.parent
    raise OSError(
        errno.ENOENT,
        f"there is no folder {folder}; make it first: mkdir -p {shlex.quote(str(folder))}",
    )


def _descriptor(path: Path) -> int | None:
    """Return the open descriptor of this process that a path such as `/dev/stdout` leads to."""
    own = f"/proc/{os.getpid()}/fd"
    while True:
        if os.path.realpath(path.parent) == own and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()


def _opened(path: Path) -> BinaryIO:
    """Open what is written into; a pipe waits for its reader."""
    number = _descriptor(path)
    # Opened by name, a file behind a descriptor would be written from its start.
    return path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")


def _take_over(target: Path, new: int) -> None:
    """Give a new file the permissions of the one that it replaces."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(new, old.st_uid, old.st_gid)
        except PermissionError:
            return  # it stays ours, as any new file
    os.fchmod(new, old.st_mode & 0o777)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let every `OSError` name the path that the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
