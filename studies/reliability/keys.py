"""Keys of tenants: an access file for a server, and channels whose calls bring a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.server.access.limits import Limits

API_KEY = "KSHOT_API_KEY"


class _Details(NamedTuple):
    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


def write_access(path: Path, tenants: Mapping[str, Limits]) -> dict[str, str]:
    """Write an access file with a key for each tenant; return the keys."""
    made = {name: new_key(name, Role.USER, None, datetime.now(UTC)) for name in tenants}
    records = tuple(record for record, _ in made.values())
    change_access(path, lambda file: replace(file, keys=records, tenants=tenants), create=True)
    return {name: text for name, (_, text) in made.items()}


def with_key(channel: grpc.Channel, key: str) -> grpc.Channel:
    """Return a channel whose calls bring a key; the channel itself without one."""
    return grpc.intercept_channel(channel, _Keyed(key)) if key else channel


def keyed(key: str) -> Sequence[Any]:
    """Return the interceptors of an asynchronous channel whose calls bring a key."""
    return [_AsyncKeyed(key)] if key else []


def _add(key: str, details: Any) -> _Details:  # noqa: ANN401 -- gRPC's own type
    metadata = [*(details.metadata or ()), ("authorization", f"Bearer {key}")]
    return _Details(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _Keyed(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,  # noqa: ANN401 -- gRPC's own type
        request: Any,  # noqa: ANN401 -- any message
    ) -> Any:  # noqa: ANN401 -- a call
        return continuation(_add(self._key, client_call_details), request)


class _AsyncKeyed(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,  # noqa: ANN401 -- gRPC's own type
        request: Any,  # noqa: ANN401 -- any message
    ) -> Any:  # noqa: ANN401 -- a call
        details = client_call_details
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._key}")
        keyed = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(keyed, request)
