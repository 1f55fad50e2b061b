"""Keeps an engine running: starts it, watches it, replaces it when it ends or hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineFacts, EngineResult, EngineTask
from kshot.server.engine_link.process import EngineProcess
from kshot.server.errors import EngineUnavailable, StartError
from kshot.server.event_log import LOGGER, log_event

_FIRST_BACKOFF_SECONDS = 0.1
_LAST_BACKOFF_SECONDS = 10.0
# An engine that ran this long was healthy: the next one starts without waiting.
_HEALTHY_SECONDS = 30.0
# An engine that computes still answers probes: one that misses this many in a row hangs.
_MISSED_PROBES = 3


class EngineSupervisor:
    """Owns the engine process; while there is none, `adapt` raises `EngineUnavailable`."""

    def __init__(self, config: ServerConfig, digests: Mapping[str, str]) -> None:
        self._config = config
        self._digests = dict(digests)
        self._engine: EngineProcess | None = None
        self._facts: EngineFacts | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def facts(self) -> EngineFacts | None:
        """Return the engine's description, None while there is none."""
        return self._facts

    async def start(self) -> EngineFacts:
        """Start the first engine and wait for it; raise `StartError`."""
        facts = await self._launch()
        self._watch = asyncio.create_task(self._keep_running())
        return facts

    async def adapt(self, task: EngineTask, timeout: float | None) -> EngineResult:
        """Run an inner loop; raise `EngineUnavailable`, also when the engine dies under it."""
        if self._engine is None or self._facts is None:
            raise EngineUnavailable
        return await self._engine.client.adapt(task, timeout)

    async def stop(self) -> None:
        """Stop the engine and start no other."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._discard()

    async def _launch(self) -> EngineFacts:
        self._engine = await EngineProcess.start(self._config)
        pid = self._engine.pid
        try:
            facts = await self._engine.ready(self._config.engine_start)
            if dict(facts.digests) != self._digests:
                raise StartError(
                    "the engine has loaded other bundles than the front; "
                    "start again when their folders no longer change"
                )
        except BaseException:
            await self._discard()
            raise
        self._facts = facts
        log_event(
            "engine_connected",
            pid=pid,
            device=facts.device,
            device_name=facts.device_name,
            torch=facts.torch_version,
            compute_path=facts.compute_path,
        )
        return facts

    async def _keep_running(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            if self._engine is not None:
                code = await self._end_of(self._engine)
                await self._discard()
                log_event("engine_ended", logging.ERROR, exit_code=code)
            if time.monotonic() - started > _HEALTHY_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
            try:
                await self._launch()
            except StartError as error:
                log_event("engine_failed", logging.ERROR, problem=str(error))
            except Exception:
                LOGGER.exception("failure")

    async def _end_of(self, engine: EngineProcess) -> int:
        """Wait for the end of an engine; probe it meanwhile, and kill it if it hangs."""
        ended = asyncio.ensure_future(engine.ended())
        missed = 0
        seconds = self._config.engine_probe
        try:
            while missed < _MISSED_PROBES:
                await asyncio.wait((ended,), timeout=seconds)
                if ended.done():
                    return ended.result()
                missed = 0 if await engine.client.answers(seconds) else missed + 1
            log_event("engine_hangs", logging.ERROR, pid=engine.pid, missed_probes=missed)
            engine.kill()
            # Its calls end here, even if the system takes long to end the process.
            await self._discard()
            return await ended
        finally:
            ended.cancel()

    async def _discard(self) -> None:
        self._facts = None
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()
