"""The clients of this process's classifiers, one for each address."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cache

from kshot.client.client import Client
from kshot.client.connection.addresses import check_address


@dataclass(eq=False)
class _Shared:
    client: Client
    lease_count: int = 0


_lock = threading.Lock()
_shared: dict[str | None, _Shared] = {}


class Lease:
    """A use of the client for an address, None for a local server; the last one closes it."""

    def __init__(self, address: str | None, timeout: float) -> None:
        """Open the client if nobody has; raise `KshotError` where that fails."""
        _watch_forks()
        if address is not None:
            check_address(address)
        self._address = address
        with _lock:
            shared = _shared.get(address)
            if shared is None or not shared.client.usable:
                client = Client.local(timeout=timeout) if address is None else Client(address)
                shared = _shared[address] = _Shared(client)
            shared.lease_count += 1
        self._used = shared

    @property
    def client(self) -> Client:
        """The client."""
        return self._used.client

    @property
    def local(self) -> bool:
        """Tell whether the server is this process's own, and ends with it."""
        return self._address is None

    def end(self, *, keep_local: bool) -> None:
        """Count one use less; the last one closes the client.

        With `keep_local` a local server waits for the next lease: it takes seconds to start.
        """
        with _lock:
            self._used.lease_count -= 1
            if self._used.lease_count or (keep_local and self.local and self.client.usable):
                return
            if _shared.get(self._address) is self._used:
                del _shared[self._address]
        self.client.close()


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    """Leave the clients to the parent; another thread of it may hold the lock."""
    global _lock
    _lock = threading.Lock()
    _shared.clear()
