"""The files of TLS: read, and checked before anyone connects."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kshot.server.access.access_file import Signature, signature_of
from kshot.server.access.validity import chain_validity
from kshot.server.errors import StartError

_ANYBODY = 0o007


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files: the server's chain, its key, and the authorities of clients, if any."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def signature(self) -> tuple[Signature, ...]:
        """Return what tells these files from others at the same paths; raises `OSError`."""
        paths = (self.cert, self.key, self.client_ca)
        return tuple(signature_of(path.stat()) for path in paths if path is not None)


@dataclass(frozen=True)
class Certificate:
    """The content of the files, and when the chain ends."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    end: datetime


def read_certificate(files: TlsFiles, now: datetime) -> Certificate:
    """Read the files; raise `StartError` if they cannot serve at this time."""
    chain, key = _read(files.cert, "certificate"), _read_key(files.key)
    with _problems(files.cert, "not a chain of PEM certificates"):
        start, end = chain_validity(chain.decode("ascii"))
    if not start <= now < end:
        raise StartError(
            f"{files.cert}: expected a certificate that is valid now, got one from {start} to "
            f"{end}; renew it"
        )
    _check_fit(files)
    client_ca = None
    if files.client_ca is not None:
        client_ca = _read(files.client_ca, "certificate")
        with _problems(files.client_ca, "not PEM certificates"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
    return Certificate(chain, key, client_ca, end)


def _check_fit(files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password keeps OpenSSL from asking for one.
        context.load_cert_chain(files.cert, files.key, password=str)
    except ssl.SSLError as error:
        problem = (
            f"it does not fit {files.cert}; name the key that the certificate was made with"
            if error.reason == "KEY_VALUES_MISMATCH"
            else "not a PEM private key, or one with a password; write it without one"
        )
        raise StartError(f"{files.key}: {problem}") from error
    except (OSError, ValueError) as error:
        raise StartError(f"{files.key}: cannot read the private key: {error}") from error


def _read_key(path: Path) -> bytes:
    content = _read(path, "private key")
    with _problems(path, "cannot read the private key"):
        mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _ANYBODY:
        raise StartError(
            f"{path}: expected a private key that only its owner and group may read, got mode "
            f"{mode:o}; chmod it to 600, and replace the key if others may have read it"
        )
    return content


def _read(path: Path, what: str) -> bytes:
    with _problems(path, f"cannot read the {what}"):
        return path.read_bytes()


@contextmanager
def _problems(path: Path, problem: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"{path}: {problem}: {error.strerror or error}") from error
    except ValueError as error:
        raise StartError(f"{path}: {problem}: {error}") from error
