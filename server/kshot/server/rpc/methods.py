"""What is known of each method of the port before anyone calls it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kshot.server.rpc.calls import Kind


@dataclass(frozen=True)
class Method:
    """A method by its path, its `service` only if it is one of ours, and the name for logs."""

    path: str
    kind: Kind
    name: str
    service: str = ""

    @classmethod
    def of(cls, path: str, services: Collection[str]) -> Method:
        """Return what a path names; `services` are our own."""
        service, _, name = path.removeprefix("/").rpartition("/")
        if service in services:
            return cls(path, Kind.OWN, name, service)
        return cls(path, Kind.STANDARD, path)
