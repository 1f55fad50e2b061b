"""The life of a server: open, start the engine, answer, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kshot.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from kshot.server.access.audit import AuditLog
from kshot.server.access.certificate import TlsFiles
from kshot.server.access.gate import Gate
from kshot.server.access.live_access import LiveAccess
from kshot.server.access.live_certificate import LiveCertificate
from kshot.server.access.quotas import Quotas
from kshot.server.access.watch import watch
from kshot.server.admission import Admission
from kshot.server.bundles.reload import Parts, Reload, open_catalog
from kshot.server.bundles.repository import find_bundles
from kshot.server.config import ServerConfig
from kshot.server.drain_grace import Grace
from kshot.server.engine_link.folder import remove_leftovers
from kshot.server.engine_link.pool import EnginePool
from kshot.server.event_log import LOGGER, log_event
from kshot.server.front import Front
from kshot.server.front_share import measure_share
from kshot.server.gateway_link.gateway import Gateway
from kshot.server.limits.answers import AnswerRoom
from kshot.server.oip.service import SERVICE as INFERENCE_SERVICE
from kshot.server.oip.service import InferenceServicer
from kshot.server.predict.batches import Batches
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.opener import Opener
from kshot.server.predict.runtime import Runtime
from kshot.server.request.decoders import Decoders
from kshot.server.rpc.admin import AdminServicer
from kshot.server.rpc.health import Health
from kshot.server.rpc.interceptor import CallInterceptor, Guards
from kshot.server.rpc.listen import listen
from kshot.server.rpc.messages import max_fields
from kshot.server.rpc.service import AdaptationServicer
from kshot.server.rpc.transport import quiet_grpc, transport_options
from kshot.server.store.failures import StoreFailed
from kshot.server.store.kept_models import KeptModels
from kshot.server.store.model_cache import ModelCache
from kshot.server.store.sealing import Seals
from kshot.server.store.store import LocalStore
from kshot.server.watch.opening import answering_scrapes, observing
from kshot.server.watch.statistics import Watched
from kshot.server.workers import Workers
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import adaptation_pb2_grpc as wire_grpc
from kshot.v1 import admin_pb2 as admin_wire
from kshot.v1 import admin_pb2_grpc as admin_grpc

SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"].full_name
ADMIN_SERVICE = admin_wire.DESCRIPTOR.services_by_name["AdminService"].full_name
SERVICES = (SERVICE, ADMIN_SERVICE, INFERENCE_SERVICE)
"""Our own services."""
_SWEEP_SECONDS = 60.0
# How long answers may take to leave once their calls have ended.
_LAST_BYTES_SECONDS = 0.2
# How long threads may take to notice the end of their calls when no grace is left.
_LAST_WORK_SECONDS = 0.5

Announce = Callable[[dict[str, object]], None]


async def serve(config: ServerConfig, announce: Announce) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish running calls; a second stops at once.

    Threads that outlast the grace still run when this returns.

    `announce` receives the ready event. Raises `StartError` or `BundleError`.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, on_signal)
    async with running(config, stop, hurry) as ready:
        if ready is None:
            return
        announce(ready)
        await stop.wait()
        log_event("stopping")
    log_event("stopped")


@asynccontextmanager
async def running(
    config: ServerConfig, stop: asyncio.Event, hurry: asyncio.Event
) -> AsyncIterator[dict[str, object] | None]:
    """Run a server around a block and drain it at the end; yield the ready event.

    Yields None if `stop` is set before the engine is ready.
    """
    async with AsyncExitStack() as stack:
        access = None if config.access is None else LiveAccess(config.access)
        audit = AuditLog(config.audit_log)
        stack.callback(audit.close)
        certificate = None
        if config.tls_cert is not None and config.tls_key is not None:
            files = TlsFiles(config.tls_cert, config.tls_key, config.client_ca)
            certificate = LiveCertificate(files)
        quotas = Quotas() if access is None else Quotas(access.limits_of)
        hot_set = HotSet(config.max_hot_sessions)
        stack.callback(hot_set.close)
        runtime = Runtime(config.device)
        opener = Opener(runtime, hot_set)
        find = partial(find_bundles, config.bundles, config.repositories)
        catalog = open_catalog(found := find(), opener)
        store = stack.enter_context(
            LocalStore.open(
                config.store,
                max_count=config.max_adapted_models,
                max_bytes=config.max_adapted_bytes,
                seals=None if config.store_key is None else Seals.read(config.store_key),
            )
        )
        decoders = Decoders()
        stack.callback(decoders.close)
        workers = Workers()
        grace = Grace(config.drain_grace, hurry)
        stack.push_async_callback(lambda: grace.wait(workers.close(), _LAST_WORK_SECONDS))
        remove_leftovers()
        engine = EnginePool(config, catalog.folders)
        stack.push_async_callback(lambda: grace.wait(engine.stop()))
        cache = ModelCache(config.cache_bytes)
        front = Front(
            config=config,
            catalog=catalog,
            engine=engine,
            kept_models=KeptModels(store, cache, workers, quotas.limits_of),
            workers=workers,
            batches=Batches(workers),
            encodings=Encodings(workers, on_gpu=runtime.on_gpu),
            decoders=decoders,
            adapting=Admission(config.max_adapt_queue),
            predicting=Admission(config.max_predict_queue),
            answer_room=AnswerRoom(config.max_answer_bytes),
            quotas=quotas,
        )
        quiet_grpc()
        guards = Guards(Gate(access), quotas, audit)
        observer = await stack.enter_async_context(observing(config))
        interceptor = CallInterceptor(
            SERVICES, config, partial(max_fields, catalog), guards, observer
        )
        gateway = Gateway(config) if config.http else None
        if gateway is not None:
            stack.push_async_callback(gateway.stop, 0.0)
        statistics = Watched(
            front, interceptor.calls, observer.finished, store, cache, hot_set, gateway
        )
        metrics = stack.enter_context(answering_scrapes(config, statistics))
        server, address = _make_server(config, interceptor, certificate)
        if gateway is not None:
            server.add_insecure_port(f"unix:{gateway.path}")
        parts = Parts(opener, engine, front.kept_models.forget_bundles, audit)
        reload = Reload(find, found, catalog, parts)
        healthy = _add_services(server, front, AdminServicer(front, reload, statistics))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        if not await _start_engine(engine, stop):
            yield None
            return
        facts = engine.facts
        http = {} if gateway is None else {"http": await gateway.start(address)}
        healthy.set_serving(True)
        behind = [
            asyncio.create_task(_sweep(store, workers, hurry)),
            asyncio.create_task(_size(front)),
        ]
        if config.repositories and config.poll_repository:
            behind.append(asyncio.create_task(reload.poll(config.poll_repository)))
        if watched := [each.refresh for each in (access, certificate) if each is not None]:
            behind.append(asyncio.create_task(watch(watched)))
        try:
            yield {
                "event": "ready",
                "grpc": address,
                **http,
                **({"metrics": metrics} if metrics else {}),
                "models": sorted(model.bundle.manifest.name for model in catalog),
                "device": facts.device if facts else config.device,
            }
        finally:
            front.adapting.close()
            healthy.set_serving(False)
            if gateway is not None:
                await grace.wait(gateway.stop(grace.remaining()))
            await grace.wait(front.adapting.wait_idle())
            # This refuses all new calls; calls that only watch would last for the whole grace.
            stopping = asyncio.ensure_future(server.stop(grace.remaining()))
            await grace.wait(interceptor.calls.wait_idle())
            await server.stop(_LAST_BYTES_SECONDS)
            await stopping
            for task in behind:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def _make_server(
    config: ServerConfig, interceptor: CallInterceptor, certificate: LiveCertificate | None
) -> tuple[grpc.aio.Server, str]:
    """Return a listening server and its address."""
    server = grpc.aio.server(interceptors=[interceptor], options=transport_options(config))
    credentials = None if certificate is None else certificate.credentials
    port = listen(server, config.host, config.port, credentials)
    return server, f"{config.host}:{port}"


def _add_services(server: grpc.aio.Server, front: Front, admin: AdminServicer) -> Health:
    wire_grpc.add_AdaptationServiceServicer_to_server(AdaptationServicer(front), server)
    admin_grpc.add_AdminServiceServicer_to_server(admin, server)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    healthy = Health(("", *SERVICES))
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(
        InferenceServicer(front, lambda: healthy.serving), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection(names, server)
    return healthy


async def _start_engine(engine: EnginePool, stop: asyncio.Event) -> bool:
    """Wait for the first engine; return whether it was ready before `stop`."""
    starting = asyncio.ensure_future(engine.start())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        return False
    finally:
        for waiting in (starting, stopping):
            waiting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await waiting


async def _size(front: Front) -> None:
    """Find the number of engines; adapt with those that are there if that fails."""
    try:
        await front.engine.size(partial(measure_share, front))
    except Exception:
        LOGGER.exception("failure")


async def _sweep(store: LocalStore, workers: Workers, stop: asyncio.Event) -> None:
    """Remove expired models periodically."""
    while not stop.is_set():
        try:
            if count := await workers.brief(store.sweep):
                log_event("expired", count=count)
        except StoreFailed as error:  # the next sweep tries again
            log_event("store_failed", logging.ERROR, problem=str(error))
        except Exception:
            LOGGER.exception("failure")
        with suppress(TimeoutError):
            async with asyncio.timeout(_SWEEP_SECONDS):  # wait_for would make a task each time
                await stop.wait()
