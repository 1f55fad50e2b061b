"""Which key a text is."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime

from kshot.server.access.key import Key, digest_of, prefix_of

_NOBODY = "0" * 64  # compared where no key has the prefix, so that both take as long


class Keyring:
    """Finds keys by their prefix."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_prefix = {key.prefix: key for key in keys}

    def find(self, text: str, now: datetime | None = None) -> Key | None:
        """Return the key that a text is, None if it is none or is revoked."""
        key = self._whole(text)
        return None if key is None or key.revoked(now or datetime.now(UTC)) else key

    def revoked_prefix(self, text: str) -> str:
        """Return the prefix of the revoked key that a text is, empty if it is none."""
        key = self._whole(text)
        return key.prefix if key is not None and key.revoked(datetime.now(UTC)) else ""

    def _whole(self, text: str) -> Key | None:
        key = self._by_prefix.get(prefix_of(text))
        wanted = _NOBODY if key is None else key.sha256
        if not hmac.compare_digest(digest_of(text), wanted) or key is None:
            return None
        return key
