"""Who may call which method: asked before a call's message is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from kshot.server.access.key import Key, Role
from kshot.server.access.live_access import LiveAccess
from kshot.server.call_context import Call
from kshot.server.errors import PermissionDenied, Unauthenticated

# A key is worth nothing to a probe of health, and probes have no place to keep one.
_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_ADMIN_SERVICES = ("/kshot.v1.AdminService/",)
_METADATA = "authorization"
_SCHEME = "bearer"

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class Gate:
    """Lets calls in by their key; on a server without keys, all but those of administrators."""

    def __init__(self, access: LiveAccess | None = None) -> None:
        self._access = access

    def admit(self, call: Call, path: str, metadata: Metadata) -> None:
        """Note whose call of the method at `path` it is.

        Raises `Unauthenticated` or `PermissionDenied`, whether or not there is such a method.
        """
        if path.startswith(_OPEN_SERVICES):
            return
        for_admins = path.startswith(_ADMIN_SERVICES)
        if self._access is None:
            if for_admins:
                raise PermissionDenied(
                    "the server has no keys, so nobody may administer it; start it with --access"
                )
            return
        text = _key_text(metadata)
        key = self._access.find_key(text)
        if key is None:
            call.key = self._access.revoked_prefix(text)  # for the audit log alone
            raise Unauthenticated
        call.key, call.tenant, call.admin = key.prefix, key.tenant, key.role is Role.ADMIN
        call.caller = f"tenant:{key.tenant}"
        if for_admins and not call.admin:
            raise PermissionDenied(_needs_admin(key))


def _key_text(metadata: Metadata) -> str:
    """Return the key that a call brings; empty unless it is exactly one."""
    values = [value for name, value in metadata if name == _METADATA]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    scheme, _, text = values[0].partition(" ")
    return text if scheme.lower() == _SCHEME else ""


def _needs_admin(key: Key) -> str:
    return (
        f"expected a key with the role admin, got {key.prefix} with the role {key.role}; create "
        "one with `kshot keys create --role admin`"
    )
