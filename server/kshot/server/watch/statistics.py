"""What a server has done since it started and what it holds, at one moment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kshot.server.admission import Admission
from kshot.server.engine_link.pool import EngineUse
from kshot.server.front import Front
from kshot.server.gateway_link.gateway import Gateway
from kshot.server.predict.hot_set import HotSet
from kshot.server.store.model_cache import ModelCache
from kshot.server.store.store import LocalStore, StoreEvents
from kshot.server.watch.finished_calls import FinishedCalls, Outcome, Times


@dataclass(frozen=True)
class Level:
    """How much of something there is, and the most there may be."""

    count: int
    limit: int


@dataclass(frozen=True)
class ServedBundle:
    """A bundle that is served."""

    model: str
    version: int
    digest: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TenantUse:
    """The finished calls of a tenant since the start, and the adapted models that it keeps.

    `adapt_seconds` tells how long engines computed for it, whatever became of that.
    """

    call_count: int = 0
    adapt_seconds: float = 0.0
    model_count: int = 0
    model_bytes: int = 0


@dataclass(frozen=True)
class Statistics:
    """All that metrics and `GetStatistics` tell; `queues` are by name, `tenants` as first seen.

    `http_refusals` are those of the gateway, by code and reason.
    """

    start_time: float
    outcomes: Mapping[Outcome, Mapping[str, Times]]
    tenants: Mapping[str, TenantUse]
    running_count: int
    queues: Mapping[str, Level]
    engine: EngineUse
    hot_sessions: Level
    cached_count: int
    cached_bytes: Level
    models: Level
    model_bytes: Level
    store_events: StoreEvents
    bundles: tuple[ServedBundle, ...]
    http_refusals: Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Watched:
    """The parts of a server that statistics are taken of."""

    front: Front
    calls: Admission
    finished: FinishedCalls
    store: LocalStore
    cache: ModelCache
    hot_set: HotSet
    gateway: Gateway | None
    start_time: float = field(default_factory=time.time)

    def take(self) -> Statistics:
        """Look at all parts; this waits for the disk: call it off the event loop."""
        front, config = self.front, self.front.config
        model_count, model_bytes = self.store.use()
        calls, kept = self.finished.tenants(), self.store.use_by_tenant()
        adapted = front.quotas.adapted.copy()
        tenants = dict.fromkeys([*calls, *kept, *adapted])
        return Statistics(
            start_time=self.start_time,
            outcomes=self.finished.outcomes(),
            tenants={
                name: TenantUse(calls.get(name, 0), adapted.get(name, 0.0), *kept.get(name, (0, 0)))
                for name in tenants
            },
            running_count=self.calls.count,
            queues={
                "adapting": Level(front.adapting.count, front.adapting.limit),
                "predicting": Level(front.predicting.count, front.predicting.limit),
            },
            engine=front.engine.use,
            hot_sessions=Level(len(self.hot_set), config.max_hot_sessions),
            cached_count=len(self.cache),
            cached_bytes=Level(self.cache.used_bytes, config.cache_bytes),
            models=Level(model_count, config.max_adapted_models),
            model_bytes=Level(model_bytes, config.max_adapted_bytes),
            store_events=self.store.events,
            bundles=tuple(
                ServedBundle(
                    served.bundle.manifest.name,
                    served.bundle.manifest.version,
                    served.bundle.digest,
                    tuple(served.labels),
                )
                for served in front.catalog.versions
            ),
            http_refusals={} if self.gateway is None else self.gateway.refusals(),
        )
