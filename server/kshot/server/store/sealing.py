"""Sealed arrays: an adapted model's arrays, encrypted with a key that the operator keeps."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.local import pip_install
from kshot.server.errors import StartError
from kshot.server.store.failures import StoreFailed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12  # NIST SP 800-38D, section 8.2.2: random ones suffice for 2^32 files


@dataclass(frozen=True)
class Seals:
    """The keys of a store by their names: the `newest` one seals, all of them open."""

    newest: str
    ciphers: Mapping[str, AESGCM]

    @classmethod
    def read(cls, path: Path) -> Seals:
        """Read a file of keys, one a line, the newest first; raise `StartError`.

        A key is 32 random bytes in base64, as `openssl rand -base64 32` prints them.
        """
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError as error:
            install = pip_install("encryption")
            raise StartError(
                f"store_key needs 'cryptography', which is not installed: {install}"
            ) from error
        keys = _read_keys(path)
        names = [hashlib.sha256(b"kshot seal " + key).hexdigest()[:16] for key in keys]
        return cls(names[0], dict(zip(names, map(AESGCM, keys), strict=True)))

    def seal(self, content: bytes, about: bytes) -> bytes:
        """Encrypt content; it opens only together with `about` (AES-256-GCM)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self.ciphers[self.newest].encrypt(nonce, content, about)

    def open(self, name: str, sealed: bytes, about: bytes) -> bytes:
        """Decrypt what the key `name` sealed; raise `StoreFailed` without that key."""
        from cryptography.exceptions import InvalidTag

        if name not in self.ciphers:
            raise StoreFailed(unknown_key(name))
        try:
            return self.ciphers[name].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
        except InvalidTag as error:
            raise StoreFailed(f"a file does not open with the key {name} that sealed it") from error


def unknown_key(name: str) -> str:
    """Return what is wrong where no key of this name is at hand."""
    return f"a file is sealed with the key {name}; add that key to the file of --store-key"


def _read_keys(path: Path) -> Sequence[bytes]:
    try:
        mode = path.stat().st_mode
        lines = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StartError(f"store_key: cannot read {path}: {problem}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise StartError(f"store_key: others can read {path}; run chmod 600 {path}")
    keys = []
    for number, line in enumerate(lines, 1):
        try:
            keys.append(base64.b64decode(line, validate=True))
        except binascii.Error:
            keys.append(b"")
        if len(keys[-1]) != _KEY_BYTES:
            raise StartError(
                f"store_key: {path}: line {number}: expected {_KEY_BYTES} bytes in base64, as "
                "`openssl rand -base64 32` prints them"
            )
    if not keys:
        raise StartError(f"store_key: {path}: expected a key a line, got none")
    return keys
