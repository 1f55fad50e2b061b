"""Keeps an engine running: starts it, watches it, replaces it when it ends or hangs."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kshot.bundle import BundleError
from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineFacts, EngineResult, EngineTask
from kshot.server.engine_link.process import EngineProcess, EngineSetting
from kshot.server.errors import EngineUnavailable, StartError
from kshot.server.event_log import LOGGER, log_event

_FIRST_BACKOFF_SECONDS = 0.1
_LAST_BACKOFF_SECONDS = 10.0
# An engine that ran this long was healthy: the next one starts without waiting.
_HEALTHY_SECONDS = 30.0
# An engine that computes still answers probes: one that misses this many in a row hangs.
_MISSED_PROBES = 3


class EngineSupervisor:
    """Owns one engine process; while there is none, `adapt` raises `EngineUnavailable`."""

    def __init__(
        self,
        config: ServerConfig,
        bundles: Mapping[str, Path],
        setting: EngineSetting,
        on_change: Callable[[], None],
    ) -> None:
        """Start nothing; `on_change` is called when there are other `facts`.

        `bundles` are the folders by their digests, which may change: an engine that starts later
        loads those that are there then.
        """
        self._config = config
        self._bundles = bundles
        self._setting = setting
        self._on_change = on_change
        self._running = 0
        self._loads = 0
        self.end_count = 0
        """How often an engine has ended by itself or was killed."""
        self._missed = 0
        self._engine: EngineProcess | None = None
        self._facts: EngineFacts | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def facts(self) -> EngineFacts | None:
        """Return the engine's description, None while there is none."""
        return self._facts

    @property
    def pid(self) -> int | None:
        """Return the process id, None while there is none."""
        return None if self._engine is None else self._engine.pid

    @property
    def running_count(self) -> int:
        """Count the tasks that the engine has."""
        return self._running

    @property
    def load(self) -> tuple[bool, int]:
        """Compare engines: one that did not answer the last time comes last, then tasks count."""
        return self._missed > 0, self._running

    async def start(self) -> EngineFacts:
        """Start the first engine and wait for it; raise `StartError`."""
        facts = await self._launch()
        self.start_behind()
        return facts

    def start_behind(self) -> None:
        """Keep an engine running from now on, without waiting for it."""
        self._watch = asyncio.create_task(self._keep_running())

    async def adapt(self, task: EngineTask, timeout: float | None) -> EngineResult:
        """Run an inner loop; raise `EngineUnavailable`, also when the engine dies under it."""
        if self._engine is None or self._facts is None:
            raise EngineUnavailable
        self._running += 1
        try:
            return await self._engine.client.adapt(task, timeout)
        except EngineUnavailable:  # until it answers a probe
            self._missed = max(1, self._missed)
            raise
        finally:
            self._running -= 1

    async def load_bundle(self, digest: str, path: Path) -> None:
        """Let the engine load a bundle; raise `BundleError` or `EngineUnavailable`."""
        engine = self._engine
        if engine is None or self._facts is None:
            raise EngineUnavailable
        tail_seconds = await engine.client.load(path, digest)
        if engine is self._engine and (facts := self._facts) is not None:
            self._loads += 1
            known = {**facts.tail_seconds, **tail_seconds}
            self._describe(replace(facts, digests=facts.digests | {digest}, tail_seconds=known))

    async def unload_bundle(self, digest: str) -> None:
        """Let the engine forget a bundle."""
        if self._engine is not None and self._facts is not None:
            self._loads += 1
            self._describe(replace(self._facts, digests=self._facts.digests - {digest}))
            await self._engine.client.unload(digest)

    async def stop(self) -> None:
        """Stop the engine and start no other."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._discard()

    async def _launch(self) -> EngineFacts:
        wanted = dict(self._bundles)
        # A folder that is gone keeps nobody from adapting other models.
        bundles = {digest: path for digest, path in wanted.items() if path.is_dir()}
        log_event("engine_starting", models=sorted({path.parent.name for path in bundles.values()}))
        self._engine = await EngineProcess.start(
            self._config, self._setting, list(bundles.values())
        )
        pid = self._engine.pid
        try:
            facts = await self._engine.ready(self._config.engine_start)
            if facts.digests != bundles.keys():
                raise StartError(
                    "the engine has loaded other bundles than the front; "
                    "start again when their folders no longer change"
                )
        except BaseException:
            await self._discard()
            raise
        self._describe(facts)
        self._setting = replace(self._setting, tail_seconds=facts.tail_seconds)
        log_event(
            "engine_connected",
            pid=pid,
            device=facts.device,
            device_name=facts.device_name,
            torch=facts.torch_version,
            compute_path=facts.compute_path,
        )
        for digest in self._bundles.keys() - wanted.keys():  # they came while it started
            try:
                await self.load_bundle(digest, self._bundles[digest])
            except (BundleError, EngineUnavailable) as error:
                log_event("bundle_not_loaded", logging.ERROR, pid=pid, problem=str(error))
        return facts

    async def _keep_running(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            try:
                if self._engine is not None:
                    await self._watch_over(self._engine)
                if time.monotonic() - started > _HEALTHY_SECONDS:
                    backoff = _FIRST_BACKOFF_SECONDS
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
                await self._launch()
            except StartError as error:
                log_event("engine_failed", logging.ERROR, problem=str(error))
            except Exception:  # whatever it is, there must be an engine again
                LOGGER.exception("failure")

    async def _watch_over(self, engine: EngineProcess) -> None:
        """Wait for the end of an engine, and discard it whatever happens."""
        try:
            code = await self._end_of(engine)
        finally:
            await self._discard()
        hint = self._hint(code)
        self.end_count += 1
        log_event("engine_ended", logging.ERROR, pid=engine.pid, exit_code=code, **hint)

    async def _end_of(self, engine: EngineProcess) -> int:
        """Wait for the end of an engine; probe it meanwhile, and kill it if it hangs."""
        ended = asyncio.ensure_future(engine.ended())
        self._missed = 0
        seconds = self._config.engine_probe
        try:
            while self._missed < _MISSED_PROBES:
                await asyncio.wait((ended,), timeout=seconds)
                if ended.done():
                    return ended.result()
                loads = self._loads
                if facts := await engine.client.probe(seconds):
                    self._missed = 0
                    if loads == self._loads:  # else it may not tell of the last
                        self._describe(facts)
                else:
                    self._missed += 1
            log_event("engine_hangs", logging.ERROR, pid=engine.pid, missed_probes=self._missed)
            engine.kill()
            # Its calls end here, even if the system takes long to end the process.
            await self._discard()
            return await ended
        finally:
            ended.cancel()

    def _describe(self, facts: EngineFacts | None) -> None:
        self._facts = facts
        self._on_change()

    async def _discard(self) -> None:
        self._describe(None)
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()

    def _hint(self, exit_code: int) -> dict[str, str]:
        if exit_code != -signal.SIGKILL or self._missed >= _MISSED_PROBES:
            return {}
        return {"hint": "SIGKILL: the system may have had too little memory for this engine"}
