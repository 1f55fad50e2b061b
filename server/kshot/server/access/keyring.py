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
        key = self._by_prefix.get(prefix_of(text))
        wanted = _NOBODY if key is None else key.sha256
        if not hmac.compare_digest(digest_of(text), wanted) or key is None:
            return None
        return None if key.revoked(now or datetime.now(UTC)) else key
