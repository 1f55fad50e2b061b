"""Room that hosts share, so that none of them can take it all."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address


class HostShares:
    """Divides `total` units between hosts, as `kshot.server.limits.shares` does between callers.

    A host that holds more than what is free gets no more: one that is greedy ends with half, and
    another finds room. Addresses of IPv6 that share a network of 64 bits are one host.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._held: Counter[str] = Counter()

    def try_take(self, host: str, amount: int = 1) -> bool:
        """Take units if they are free and the host does not hold too many; return whether."""
        host = _network(host)
        if amount > self._free or self._held.get(host, 0) > self._free:
            return False
        self._free -= amount
        self._held[host] += amount
        return True

    def give(self, host: str, amount: int = 1) -> None:
        """Give units back."""
        host = _network(host)
        self._free += amount
        self._held[host] -= amount
        if not self._held[host]:
            del self._held[host]


def _network(host: str) -> str:
    if ":" not in host:
        return host
    return IPv6Address(host.partition("%")[0]).exploded[:19]
