"""The certificate of a running gateway, and the authorities of clients, taken anew from files."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: a certificate, its key, and the authorities of clients if they must show one."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files; raise `OSError`, of which `ssl.SSLError` is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key, password="")  # never ask a terminal for one
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_ca)
        return context

    def stamps(self) -> Sequence[tuple[int, int]] | None:
        """Return what changes with the files; None where one is not there."""
        try:
            found = [each.stat() for each in (self.cert, self.key, self.client_ca) if each]
        except OSError:
            return None
        return [(status.st_ino, status.st_mtime_ns) for status in found]


class Renewal:
    """Shows new connections of `context` what is in the files.

    Files that do not fit each other change nothing.
    """

    def __init__(self, context: ssl.SSLContext, files: TlsFiles) -> None:
        self._context = context
        self._files = files
        self._seen = files.stamps()

    def look(self) -> None:
        """Read the files if they have changed."""
        now = self._files.stamps()
        if now is None or now == self._seen:
            return
        self._seen = now
        try:
            # A context of its own: in the one that listens, a failure would leave half of a pair.
            self._context.sni_callback = partial(_show, self._files.context())
        except OSError as error:
            _log.error("certificate_not_read", extra={"fields": {"problem": str(error)}})


def _show(latest: ssl.SSLContext, connection: ssl.SSLObject, _name: object, _of: object) -> None:
    connection.context = latest
