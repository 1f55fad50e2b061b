"""Writing that survives a power cut: the content is on disk before its name is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MAX_STEM_BYTES = 240


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until its content is on disk; raises `OSError`."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    The content goes to one hidden file beside `path`, so a killed writer leaves at most one behind;
    `file.name` is its path. It is synced before it is renamed. Writers of the same path take turns.
    After an error before the rename, `path` is what it was; if only the folder cannot be synced,
    the new content is there but may not survive a power cut. Raises `OSError`.
    """
    # A name that is long already stays within what a file's name may have.
    stem = os.fsdecode(os.fsencode(path.name)[:_MAX_STEM_BYTES])
    partial = path.with_name(f".{stem}.partial")
    with _locked(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file in the place of `path`, as `replacing` does; raises `OSError`."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open an empty file for one process at a time; a second process waits."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        # Opened by name, so that `file.name` is the path: some libraries write to paths alone.
        with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                file.truncate(0)
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether an open file still has this name: an earlier writer may have renamed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
