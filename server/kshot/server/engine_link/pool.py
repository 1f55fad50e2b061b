"""The engines of a server: each adaptation goes to the least loaded one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineFacts, EngineResult, EngineTask
from kshot.server.engine_link.engine_count import Share, best_count, has_room, usable_cores
from kshot.server.engine_link.process import EngineSetting
from kshot.server.engine_link.supervisor import EngineSupervisor
from kshot.server.errors import EngineUnavailable
from kshot.server.event_log import log_event

_SPARE = 1
# The front, which predicts, and the first engine come first where cores are few.
_FURTHER_NICENESS = 5
# A spare that ends again and again, or ever new steps, put the measurement off no longer.
_SETTLE_SECONDS = 300.0
_AGAIN_SECONDS, _MOST_MEASURED = 60.0, 60
MeasureShare = Callable[[int], Awaitable[Share | None]]


@dataclass(frozen=True)
class EngineUse:
    """Engine processes, those that can adapt, their tasks, and how many have ended unasked.

    Slots are those of the ready ones, as they last answered a probe.
    """

    process_count: int
    ready_count: int
    task_count: int
    end_count: int
    slot_count: int = 0
    busy_slot_count: int = 0


class EnginePool:
    """Owns the engines; each starts, fails and restarts by itself.

    On a CPU a number of `auto` begins with one engine and a spare, which adapts only while the
    first cannot, and becomes what `size` measures; on GPUs it is one engine for each.
    """

    def __init__(self, config: ServerConfig, bundles: Mapping[str, Path]) -> None:
        """Start nothing; `bundles` are folders by the digests of what is in them."""
        self._config = config
        self._bundles = dict(bundles)
        self._engines: list[EngineSupervisor] = []
        self._active = max(1, config.engines)
        self._ready = asyncio.Event()
        self._tail_seconds: dict[str, float] = {}

    @property
    def facts(self) -> EngineFacts | None:
        """Describe the engines that can adapt now together, None if there is none.

        While some step is being compiled, the path is that of an engine that waits for it.
        """
        known = [engine.facts for engine in self._engines if engine.facts is not None]
        if not known:
            return None
        last = max(known, key=lambda facts: facts.compiling_step_count)
        return replace(last, process_count=len(known))

    @property
    def use(self) -> EngineUse:
        """Count the engines, and what they have done and do."""
        engines = self._engines
        ready = [engine.facts for engine in engines if engine.facts is not None]
        return EngineUse(
            process_count=len(engines),
            ready_count=len(ready),
            slot_count=sum(facts.slot_count for facts in ready),
            busy_slot_count=sum(facts.busy_slot_count for facts in ready),
            task_count=sum(engine.running_count for engine in engines),
            end_count=sum(engine.end_count for engine in engines),
        )

    @property
    def tail_seconds(self) -> Mapping[str, float]:
        """Return the seconds of a tail's step for each example, by digest, as last measured."""
        return self._tail_seconds

    async def start(self) -> EngineFacts:
        """Start the first engine and wait for it, then the others behind; raise `StartError`."""
        first = self._add(EngineSetting())
        facts = await first.start()
        self._grow(self._config.engines, facts)
        return facts

    async def adapt(self, task: EngineTask, timeout: float | None) -> EngineResult:
        """Run an inner loop on the least loaded engine.

        Where none is ready, wait a moment for one. Raises `EngineUnavailable`, also when the engine
        dies under the task.
        """
        asked = time.monotonic()
        if not self._ready.is_set():
            most = math.inf if timeout is None else timeout
            try:
                async with asyncio.timeout(min(most, self._config.engine_wait)):
                    await self._ready.wait()
            except TimeoutError:
                raise EngineUnavailable from None
        ready = [engine for engine in self._engines if _knows(engine, task.bundle_digest)]
        # One that does not answer leaves its place to the spare.
        able = sorted(ready, key=lambda engine: engine.load[0])[: self._active]
        if not able:  # it has ended again, or loads this bundle
            raise EngineUnavailable
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - asked))
        return await min(able, key=lambda engine: engine.load).adapt(task, left)

    async def load_bundle(self, digest: str, path: Path) -> None:
        """Let all engines load a further bundle while they adapt; those that start later do too.

        Raises `BundleError` if one refuses it, and `EngineUnavailable` if there is none; then no
        engine keeps it.
        """
        ready = [engine for engine in self._engines if engine.facts is not None]
        outcomes = await asyncio.gather(
            *(engine.load_bundle(digest, path) for engine in ready), return_exceptions=True
        )
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        # One that ended meanwhile loads it when it starts again.
        serious = [each for each in failures if not isinstance(each, EngineUnavailable)]
        if serious or len(failures) == len(ready):
            await self.unload_bundle(digest)
            raise serious[0] if serious else EngineUnavailable
        self._bundles[digest] = path

    async def unload_bundle(self, digest: str) -> None:
        """Let all engines forget a bundle, and those that start later."""
        self._bundles.pop(digest, None)
        self._tail_seconds.pop(digest, None)
        await asyncio.gather(*(engine.unload_bundle(digest) for engine in self._engines))

    async def size(self, measure: MeasureShare) -> None:
        """Find the number of engines where it is `auto`; `measure` adapts with the process given.

        On a CPU it is measured once steps are compiled, and again where something disturbed it.
        """
        if self._config.engines or (facts := self.facts) is None:
            return
        if facts.device == "cuda":
            self._choose(facts.device_count, facts, {})
            return
        self._grow(1 + _SPARE, facts)
        measured = False
        for attempt in range(_MOST_MEASURED):
            settled = await self._settle()
            pid, cores = self._engines[0].pid, usable_cores()
            share = None if pid is None else await measure(pid)
            if share is None:
                if not attempt:
                    self._choose(self._active, facts, {})
            elif share.quiet or not measured:
                measured = True
                details = {"cores": cores} | share.milliseconds()
                self._choose(best_count(share, cores), facts, details)
                if share.quiet and settled:
                    return
            await asyncio.sleep(_AGAIN_SECONDS)

    def _choose(self, count: int, facts: EngineFacts, details: Mapping[str, Any]) -> None:
        self._active = count
        self._grow(count, facts)
        log_event("engines_chosen", engines=count, processes=len(self._engines), **details)

    async def stop(self) -> None:
        """Stop all engines and start no other."""
        await asyncio.gather(*(engine.stop() for engine in self._engines))

    async def _settle(self) -> bool:
        """Wait until all engines are ready and compile nothing; give up where that takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._settling():
                    await asyncio.sleep(self._config.engine_probe)
                return True
        return False

    def _settling(self) -> bool:
        """Tell whether some engine is not ready yet, or compiles."""
        facts = self.facts
        return facts is None or (
            facts.compiling_step_count > 0 or facts.process_count < len(self._engines)
        )

    def _add(self, setting: EngineSetting) -> EngineSupervisor:
        engine = EngineSupervisor(self._config, self._bundles, setting, self._on_change)
        self._engines.append(engine)
        return engine

    def _grow(self, count: int, facts: EngineFacts) -> None:
        """Start engines behind until there are `count`, or no memory is left for one."""
        on_gpu = facts.device == "cuda"
        while len(self._engines) < count:
            starting = sum(engine.facts is None for engine in self._engines)
            if not (on_gpu or self._config.engines or has_room(starting)):
                log_event("too_little_memory", engines=len(self._engines), wanted=count)
                break
            place = len(self._engines)
            gpu = place % facts.device_count if on_gpu and facts.device_count > 1 else None
            nice = 0 if on_gpu else _FURTHER_NICENESS
            self._add(
                EngineSetting(gpu, facts.device_count, nice, dict(facts.tail_seconds))
            ).start_behind()

    def _on_change(self) -> None:
        known = [engine.facts for engine in self._engines if engine.facts is not None]
        for facts in known:
            self._tail_seconds |= facts.tail_seconds
        if known:
            self._ready.set()
        else:
            self._ready.clear()


def _knows(engine: EngineSupervisor, digest: str) -> bool:
    return engine.facts is not None and digest in engine.facts.digests
