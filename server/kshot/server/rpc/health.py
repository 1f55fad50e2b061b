"""`grpc.health.v1.Health`; a watcher that does not read holds up nobody."""
# ruff: noqa: N802 -- methods are named as in the .proto

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kshot.server.errors import ServiceUnknown

Status = health_pb2.HealthCheckResponse.ServingStatus
Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Tells whether services serve; all of them serve or none does."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Tell whether the services serve."""
        return self._serving

    def set_serving(self, serving: bool) -> None:
        """Tell all watchers of a new state."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Tell the state of one service."""
        if request.service not in self._services:
            raise ServiceUnknown
        return self._response(request.service)

    async def List(
        self, _request: health_pb2.HealthListRequest, _context: Context
    ) -> health_pb2.HealthListResponse:
        """Tell the states of all services."""
        statuses = {service: self._response(service) for service in sorted(self._services)}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Tell the state of one service, and again when it changes."""
        told = None
        while True:
            changed, response = self._changed, self._response(request.service)
            if response != told:
                yield response
                told = response
            await changed.wait()

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        response = health_pb2.HealthCheckResponse
        known = response.SERVING if self._serving else response.NOT_SERVING
        return response(status=known if service in self._services else response.SERVICE_UNKNOWN)
