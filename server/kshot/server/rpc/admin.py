"""`kshot.v1.AdminService`, thin over the front and what changes it."""
# ruff: noqa: N802 -- methods are named as in the .proto

from __future__ import annotations

from typing import Any

import grpc

from kshot.server.access.names import TENANT_RULE
from kshot.server.bundles.reload import Opened, Reload
from kshot.server.call_context import current_call
from kshot.server.errors import InvalidRequest
from kshot.server.front import Front
from kshot.server.rpc.statistics import statistics_message
from kshot.server.watch.statistics import Watched
from kshot.v1 import admin_pb2 as wire
from kshot.v1 import admin_pb2_grpc as wire_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(wire_grpc.AdminServiceServicer):
    """The service, for those whom the gate lets in."""

    def __init__(self, front: Front, reload: Reload, watched: Watched) -> None:
        self._front = front
        self._reload = reload
        self._watched = watched

    async def ReloadBundles(
        self, _request: wire.ReloadBundlesRequest, _context: Context
    ) -> wire.ReloadBundlesResponse:
        """Read the bundles again."""
        opened = await self._reload.reload()
        return wire.ReloadBundlesResponse(bundles=map(_served_bundle, opened))

    async def GetStatistics(
        self, _request: wire.GetStatisticsRequest, _context: Context
    ) -> wire.GetStatisticsResponse:
        """Tell what the server has done and what it holds."""
        now = await self._front.workers.store(self._watched.take)
        state = self._front.quotas.state
        adapted = {tenant: await state.adapt_seconds(tenant) for tenant in now.tenants}
        return statistics_message(now, adapted)

    async def DeleteTenant(
        self, request: wire.DeleteTenantRequest, _context: Context
    ) -> wire.DeleteTenantResponse:
        """Erase all that is kept of a tenant."""
        if not TENANT_RULE.holds(request.tenant):
            raise InvalidRequest.about("tenant", f"expected {TENANT_RULE.expected}")
        current_call().subject = request.tenant
        count = await self._front.delete_tenant(request.tenant)
        return wire.DeleteTenantResponse(adapted_model_count=count)


def _served_bundle(opened: Opened) -> wire.ServedBundle:
    bundle = opened.model.bundle
    return wire.ServedBundle(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        labels=opened.model.labels,
        loaded=opened.loaded,
    )
