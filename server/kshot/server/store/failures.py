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


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn errors of the system into `StoreFailed` or `DiskFull`, without file names."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        kind = DiskFull if full else StoreFailed
        raise kind(f"the store's index failed: {error}") from error
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreFailed
        raise kind(f"the store's files failed: {error.strerror}") from error
