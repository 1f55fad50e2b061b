"""Failures of the system under the store; callers receive other errors for them."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from kshot.server.errors import KshotServerError


class StoreFailed(KshotServerError):  # noqa: N818 -- it states a condition, as all errors do
    """The system refused to read or write; everything stored before is unchanged."""


class DiskFull(StoreFailed):
    """The disk or the user's quota has no room for the new content."""


class RequestAnswered(KshotServerError):  # noqa: N818 -- as above
    """A request with this id was answered before: its answer stays, and no other is kept."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn errors of the system into `StoreFailed` or `DiskFull`, without file names."""
    try:
        yield
    except sqlite3.Error as error:
        kind = DiskFull if full_disk(error) else StoreFailed
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        remedy = "; stop the server and run `kshot store repair`" if damaged else ""
        raise kind(f"the store's index failed: {error}{remedy}") from error
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreFailed
        raise kind(f"the store's files failed: {error.strerror}") from error


@contextmanager
def suppress_full_disk() -> Iterator[None]:
    """Go on behind the block where SQLite has no room for what it does."""
    try:
        yield
    except sqlite3.Error as error:
        if not maybe_full_disk(error):
            raise


def full_disk(error: sqlite3.Error) -> bool:
    """Tell whether SQLite says that it has no room."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def maybe_full_disk(error: sqlite3.Error) -> bool:
    """Tell whether SQLite may have no room: of a quota it says only that it cannot write."""
    cannot_write = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)
    return full_disk(error) or getattr(error, "sqlite_errorcode", None) in cannot_write
