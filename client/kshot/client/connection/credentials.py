"""What a client shows to a server, and how it knows the server: TLS, certificates and a key."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

import grpc

from kshot.client.connection.addresses import loopback
from kshot.client.errors import InputError
from kshot.client.values import check_flag, check_path, shown

PathLike: TypeAlias = str | os.PathLike[str]
_KEY = re.compile(r"[!-~]{1,512}")  # what a header can hold
_KEY_BEGINS = "kshot_"
_MOST_KEY_BYTES = 4096
_OTHERS = 0o007
_FLAGS = {"1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(
    ("0", "false", "no", "off"), False
)
_KEY_REMEDY = "api_key (--api-key-file, KSHOT_API_KEY or KSHOT_API_KEY_FILE)"
TLS_REMEDY = "tls=True (--tls, KSHOT_TLS=1) or ca= (--ca, KSHOT_CA)"
# gRPC's own list of authorities does not have those that the machine's administrator adds.
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True)
class Requested:
    """What a caller asks for; None means what the environment says.

    `ca` is a file of certificates in PEM, `cert` a pair of such files: certificate and private
    key. `api_key` is a key, or a path-like object: the file with the key.
    """

    tls: bool | None = None
    ca: PathLike | None = None
    cert: tuple[PathLike, PathLike] | None = None
    api_key: str | os.PathLike[str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Credentials:
    """What is sent and checked, as it was read; secrets are neither shown nor pickled.

    `roots` are certificates in PEM, None for gRPC's own; `certificate` has the private key and the
    chain in PEM. `key_source` names where the key is from.
    """

    tls: bool = False
    roots: bytes | None = field(default=None, repr=False)
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    api_key: str = field(default="", repr=False)
    key_source: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that each call carries."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return what gRPC makes a channel with; None for plain text."""
        if not self.tls:
            return None
        key, chain = self.certificate or (None, None)
        return grpc.ssl_channel_credentials(self.roots, key, chain)

    def key_words(self) -> str:
        """Say how to give a key, or which key was sent."""
        if not self.api_key:
            return f"pass a key as {_KEY_REMEDY}"
        return f"the key is that of {self.key_source}"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials can be neither copied nor pickled: they hold secrets")


def read_credentials(
    asked: Requested, host: str, environ: Mapping[str, str] | None = None
) -> Credentials:
    """Read what calls to a host need; raise `InputError` for what cannot be used.

    A key goes in plain text to this machine alone.
    """
    environ = os.environ if environ is None else environ
    key, source = _key(asked.api_key, environ)
    if not _wants_tls(asked, environ):
        if key and not loopback(host):
            raise InputError(
                f"{source}: expected TLS or a loopback address, got {host} in plain text, where "
                f"others could read the key; pass {TLS_REMEDY}"
            )
        return Credentials(api_key=key, key_source=source)
    return Credentials(
        tls=True,
        roots=_roots(asked.ca, environ),
        certificate=_certificate(asked.cert, environ),
        api_key=key,
        key_source=source,
    )


def _wants_tls(asked: Requested, environ: Mapping[str, str]) -> bool:
    """Tell whether to use TLS; what is passed counts before the environment."""
    files = [name for name in ("ca", "cert") if getattr(asked, name) is not None]
    if asked.tls is not None:
        tls = check_flag("tls", asked.tls)
        if files and not tls:
            raise InputError(f"tls=False: cannot be combined with {' and '.join(files)}")
        return tls
    if files:
        return True
    if said := environ.get("KSHOT_TLS"):
        if said.lower() not in _FLAGS:
            raise InputError(f"KSHOT_TLS: expected 1 or 0, got {shown(said)}")
        return _FLAGS[said.lower()]
    return bool(environ.get("KSHOT_CA") or environ.get("KSHOT_CERT"))


def _key(given: object, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the key and where it is from; both empty without one."""
    if isinstance(given, str):
        return _checked_key("api_key", given), "api_key"
    if given is not None:
        if not isinstance(given, os.PathLike):
            kind = type(given).__name__  # bytes may be the key
            raise InputError(
                f"api_key: expected a string, or the path of a file as a Path, got {kind}"
            )
        return _key_of_file("api_key", check_path("api_key", given))
    if key := environ.get("KSHOT_API_KEY"):
        return _checked_key("KSHOT_API_KEY", key), "KSHOT_API_KEY"
    if path := environ.get("KSHOT_API_KEY_FILE"):
        return _key_of_file("KSHOT_API_KEY_FILE", Path(path))
    return "", ""


def _key_of_file(name: str, path: Path) -> tuple[str, str]:
    if str(path).startswith(_KEY_BEGINS):
        raise InputError(f"{name}: expected the path of a file, got what looks like a key")
    source = f"{name}: {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise InputError(
                    f"{source}: expected a file that others cannot read, got mode "
                    f"{mode & 0o777:04o}; chmod 600 it"
                )
            content = file.read(_MOST_KEY_BYTES)
    except InputError:  # which is a ValueError
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: {getattr(error, 'strerror', None) or error}") from error
    return _checked_key(source, content.decode("ascii", "replace").strip()), str(path)


def _checked_key(name: str, key: str) -> str:
    """Return a key that a header can hold; no error shows it."""
    if not _KEY.fullmatch(key):
        got = f"one of {len(key)} characters" if key else "an empty one"
        raise InputError(
            f"{name}: expected a key of up to 512 printable ASCII characters without spaces, got "
            f"{got}"
        )
    if os.sep in key and Path(key).exists():
        raise InputError(f"{name}: expected a key, got the path of a file; pass it as a Path")
    return str.__str__(key)


def _roots(ca: PathLike | None, environ: Mapping[str, str]) -> bytes | None:
    """Return the certificates of the authorities that vouch for the server."""
    given = ("ca", ca) if ca is not None else ("KSHOT_CA", environ.get("KSHOT_CA") or None)
    name, path = given
    if path is None:
        return _system_roots(environ)
    found = check_path(name, path)
    content = _content(name, found)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"{name}: {found}: expected certificates in PEM, got none that can be read"
        ) from error
    return content


def _system_roots(environ: Mapping[str, str]) -> bytes | None:
    """Return the machine's authorities; None where they are not found, for gRPC's own."""
    if environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    for path in (environ.get("SSL_CERT_FILE"), *_SYSTEM_ROOTS):
        if path and Path(path).is_file():
            return _content("SSL_CERT_FILE", Path(path))
    return None


def _certificate(cert: object, environ: Mapping[str, str]) -> tuple[bytes, bytes] | None:
    """Return private key and chain of the client's own certificate; None without one."""
    name, pair = "cert", cert
    if cert is None:
        name = "KSHOT_CERT and KSHOT_CERT_KEY"
        said = (environ.get("KSHOT_CERT"), environ.get("KSHOT_CERT_KEY"))
        pair = said if any(said) else None
    if pair is None:
        return None
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(pair):
        raise InputError(f"{name}: expected two files, a certificate and its private key, got one")
    chain, key = (check_path(name, path) for path in pair)
    contents = _content(name, key), _content(name, chain)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(chain, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        why = "that belong together"
        if getattr(error, "reason", "") != "KEY_VALUES_MISMATCH":
            why = "in PEM, the key without a password"
        raise InputError(
            f"{name}: expected a certificate and its private key {why}, got {chain} and {key}"
        ) from error
    return contents


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {path}: {getattr(error, 'strerror', None) or error}") from error
