"""API keys: 256 random bits each; the server knows their digests alone.

A key reads `kshot_PREFIX_SECRET`. The prefix finds its record and may be told to anyone; the digest
is the SHA-256 of the whole text. A slow hash would add nothing: nobody guesses 256 bits.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Digest
from kshot.server.access.names import KeyName, TenantName

_PREFIX_BYTES, _SECRET_BYTES = 5, 32
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def _readable(text: str) -> bool:
    try:
        datetime.strptime(text, _TIME)
    except ValueError:
        return False
    return True


KeyPrefix = Annotated[str, Rule("8 of a-z and 2-7", re.compile("[a-z2-7]{8}").fullmatch)]
Time = Annotated[str, Rule("a time such as 2026-01-31T12:00:00Z", _readable)]


class Role(StrEnum):
    """What a key allows: calls of its tenant, or those of `AdminService` too."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True)
class Key:
    """The record of a key; from `revoke_time` on it is refused."""

    prefix: KeyPrefix
    sha256: Digest
    tenant: TenantName
    role: Role
    create_time: Time
    name: KeyName | None = None
    revoke_time: Time | None = None

    def revoked(self, now: datetime) -> bool:
        """Tell whether the key is refused at a time."""
        return self.revoke_time is not None and moment(self.revoke_time) <= now

    def revoked_at(self, time: datetime) -> Key:
        """Return the record with a time from which on it is refused."""
        return replace(self, revoke_time=time_text(time))


def new_key(tenant: str, role: Role, name: str | None, now: datetime) -> tuple[Key, str]:
    """Return the record of a new key and its text, which nothing keeps."""
    prefix = _letters(_PREFIX_BYTES)
    text = f"kshot_{prefix}_{_letters(_SECRET_BYTES)}"
    return Key(prefix, digest_of(text), tenant, role, time_text(now), name), text


def prefix_of(text: str) -> str:
    """Return the prefix in what may be a key; empty if there is none."""
    parts = text.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "kshot" else ""


def digest_of(text: str) -> str:
    """Return the digest that is kept of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def moment(text: str) -> datetime:
    """Return the time that a record names."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def time_text(time: datetime) -> str:
    """Return a time as a record names it, in whole seconds."""
    return time.astimezone(UTC).strftime(_TIME)


def _letters(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode().rstrip("=").lower()
