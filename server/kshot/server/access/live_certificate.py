"""The certificate of a running server, read again when its files change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc

from kshot.server.access.access_file import Signature
from kshot.server.access.certificate import Certificate, TlsFiles, read_certificate
from kshot.server.errors import StartError
from kshot.server.event_log import log_event

_SOON = timedelta(days=14)
_REMIND = timedelta(days=1)


def _now() -> datetime:
    return datetime.now(UTC)


class LiveCertificate:
    """What the server shows to new connections; files that do not serve change nothing.

    Raises `StartError` if the files cannot serve at first.
    """

    def __init__(self, files: TlsFiles, now: Callable[[], datetime] = _now) -> None:
        self._files = files
        self._now = now
        self._seen = self._signature()
        self._stale = False
        self._remind = now()
        self._use(read_certificate(files, now()))

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's credentials of one address, which ask at each handshake for what changed.

        gRPC keeps what each address shows, so two of them cannot share what they were told.
        """
        told = self._shown

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal told
            if told is self._shown:
                return None
            told = self._shown
            return told

        return grpc.dynamic_ssl_server_credentials(
            told,
            cast(Any, changed),  # its type knows of no None
            self._files.client_ca is not None,
        )

    def refresh(self) -> None:
        """Read the files once they have changed and rest again; log how that went, and their end.

        Chain and key are two files, so a look between the two writes would find them apart.
        """
        found = self._signature()
        if found != self._seen:
            self._seen, self._stale = found, True
        elif self._stale:
            self._stale = False
            try:
                self._use(read_certificate(self._files, self._now()))
            except StartError as error:
                log_event("certificate_not_read", logging.ERROR, problem=str(error))
        self._warn()

    def _use(self, certificate: Certificate) -> None:
        pair = (certificate.key, certificate.chain)
        self._shown = grpc.ssl_server_certificate_configuration([pair], certificate.client_ca)
        self._end = certificate.end
        self._remind = self._now()
        log_event("certificate_read", expire_time=self._end.isoformat())

    def _warn(self) -> None:
        """Log once a day that the certificate ends soon, or has ended."""
        now = self._now()
        if self._end - now < _SOON and now >= self._remind:
            self._remind = now + _REMIND
            level = logging.ERROR if now >= self._end else logging.WARNING
            log_event("certificate_expires", level, expire_time=self._end.isoformat())

    def _signature(self) -> tuple[Signature, ...] | None:
        try:
            return self._files.signature()
        except OSError:
            return None
