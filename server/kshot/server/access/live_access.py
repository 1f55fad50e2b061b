"""The access file of a running server, read again when it changes."""

from __future__ import annotations

import logging
from pathlib import Path

from kshot.server.access.access_file import (
    AccessFile,
    Signature,
    read_access,
    signature_of,
)
from kshot.server.access.key import Key
from kshot.server.access.keyring import Keyring
from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.errors import StartError
from kshot.server.event_log import log_event


class LiveAccess:
    """Keys and tenants as the file has them; a damaged file changes nothing.

    Raises `StartError` if the file cannot be read at first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, seen = read_access(path)
        self._seen: Signature | None = seen
        self._keyring = Keyring(self._file.keys)

    def find_key(self, text: str) -> Key | None:
        """Return the key that a text is, None if it is none or is revoked."""
        return self._keyring.find(text)

    def revoked_prefix(self, text: str) -> str:
        """Return the prefix of the revoked key that a text is, empty if it is none."""
        return self._keyring.revoked_prefix(text)

    def limits_of(self, tenant: str) -> Limits:
        """Return the limits of a tenant, as the file has them now."""
        return self._file.tenants.get(tenant, UNLIMITED)

    def refresh(self) -> None:
        """Read the file if it has changed; log how that went."""
        try:
            found: Signature | None = signature_of(self._path.stat())
        except OSError:
            found = None
        if found == self._seen:
            return
        try:
            read, self._seen = read_access(self._path)
        except StartError as error:
            self._seen = found
            log_event("access_not_read", logging.ERROR, problem=str(error))
            return
        self._use(read)
        log_event("access_read", keys=len(read.keys), tenants=len(read.tenants))

    def _use(self, read: AccessFile) -> None:
        self._keyring = Keyring(read.keys)
        self._file = read
