"""The table of all metrics: their names, labels, meanings, and how statistics give them."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from kshot.server.watch.finished_calls import TOTAL, Times
from kshot.server.watch.statistics import Level, Statistics, TenantUse

# Calls of further tenants are counted together, so that a scrape stays small.
MAX_TENANTS = 100
OTHER_TENANTS = "(others)"
_SHORT_DIGEST = 12

Sample = tuple[tuple[str, ...], float | Times]


@dataclass(frozen=True)
class Metric:
    """A family of samples: `kind` is `counter`, `gauge` or `histogram`.

    `samples` gives values by the values of `labels`.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    samples: Callable[[Statistics], Iterable[Sample]]


def _calls(now: Statistics) -> Iterator[Sample]:
    for outcome, times in now.outcomes.items():
        yield tuple(outcome), sum(times[TOTAL].counts)


def _call_seconds(now: Statistics) -> Iterator[Sample]:
    parts = defaultdict[tuple[str, ...], list[Times]](list)
    for outcome, times in now.outcomes.items():
        parts[outcome.method, outcome.code].append(times[TOTAL])
    for labels, found in parts.items():
        yield labels, Times.of(found)


def _phase_seconds(now: Statistics) -> Iterator[Sample]:
    for outcome, times in now.outcomes.items():
        if outcome.code == "OK":
            for phase, found in times.items():
                if phase != TOTAL:
                    yield (outcome.method, phase), found


def _queue_calls(now: Statistics) -> Iterator[Sample]:
    for name, level in now.queues.items():
        yield (name,), level.count


def _queue_limits(now: Statistics) -> Iterator[Sample]:
    for name, level in now.queues.items():
        yield (name,), level.limit


def _http_refusals(now: Statistics) -> Iterator[Sample]:
    yield from now.http_refusals.items()


def _by_tenant(value: Callable[[TenantUse], float]) -> Callable[[Statistics], Iterable[Sample]]:
    """Give a value of each tenant that came first, and that of all others together."""

    def samples(now: Statistics) -> Iterator[Sample]:
        tenants = iter(now.tenants.items())
        for name, use in islice(tenants, MAX_TENANTS):
            yield (name,), value(use)
        others = [value(use) for _, use in tenants]
        if others:
            yield (OTHER_TENANTS,), sum(others)

    return samples


def _bundles(now: Statistics) -> Iterator[Sample]:
    for bundle in now.bundles:
        digest, labels = bundle.digest[:_SHORT_DIGEST], ",".join(bundle.labels)
        yield (bundle.model, str(bundle.version), digest, labels), 1


def _one(value: Callable[[Statistics], float]) -> Callable[[Statistics], Iterable[Sample]]:
    """Give a value without labels."""
    return lambda now: [((), value(now))]


def _level(
    name: str, help_text: str, value: Callable[[Statistics], Level]
) -> tuple[Metric, Metric]:
    """Declare a gauge and that of its limit."""
    limit = f"The most that {name} may be."
    return (
        Metric(name, "gauge", (), help_text, _one(lambda now: value(now).count)),
        Metric(f"{name}_limit", "gauge", (), limit, _one(lambda now: value(now).limit)),
    )


def metrics(version: str) -> tuple[Metric, ...]:
    """Return all metrics of a server of some version, besides those of its process."""
    return (
        Metric(
            "kshot_calls_total",
            "counter",
            ("method", "code", "reason"),
            "Finished calls by status code and, of errors, reason.",
            _calls,
        ),
        Metric(
            "kshot_call_seconds",
            "histogram",
            ("method", "code"),
            "Time of finished calls, from the arrival to the answer.",
            _call_seconds,
        ),
        Metric(
            "kshot_call_phase_seconds",
            "histogram",
            ("method", "phase"),
            "Time of calls that succeeded in each phase: queue, decode, compute, store.",
            _phase_seconds,
        ),
        Metric(
            "kshot_calls_running",
            "gauge",
            (),
            "Calls whose message has come and whose answer is not sent.",
            _one(lambda now: now.running_count),
        ),
        Metric(
            "kshot_http_refusals_total",
            "counter",
            ("code", "reason"),
            "Requests and connections that HTTP refused before there was a call.",
            _http_refusals,
        ),
        Metric(
            "kshot_queue_calls",
            "gauge",
            ("queue",),
            "Calls that run or wait in a queue: adapting or predicting.",
            _queue_calls,
        ),
        Metric(
            "kshot_queue_calls_limit",
            "gauge",
            ("queue",),
            "The most calls of a queue; others get UNAVAILABLE.",
            _queue_limits,
        ),
        Metric(
            "kshot_engine_processes",
            "gauge",
            (),
            "Engine processes that shall run.",
            _one(lambda now: now.engine.process_count),
        ),
        Metric(
            "kshot_engines_ready",
            "gauge",
            (),
            "Engine processes that can adapt.",
            _one(lambda now: now.engine.ready_count),
        ),
        Metric(
            "kshot_engine_tasks",
            "gauge",
            (),
            "Tasks that engines have, in slots or waiting for one.",
            _one(lambda now: now.engine.task_count),
        ),
        Metric(
            "kshot_engine_slots",
            "gauge",
            (),
            "Slots of the ready engines: how many tasks step at once.",
            _one(lambda now: now.engine.slot_count),
        ),
        Metric(
            "kshot_engine_slots_busy",
            "gauge",
            (),
            "Slots that had a task at the last probe of the engines.",
            _one(lambda now: now.engine.busy_slot_count),
        ),
        Metric(
            "kshot_engine_ends_total",
            "counter",
            (),
            "Engines that ended by themselves or were killed because they hung.",
            _one(lambda now: now.engine.end_count),
        ),
        *_level(
            "kshot_hot_sessions",
            "Adapted models with a network of their own.",
            lambda now: now.hot_sessions,
        ),
        Metric(
            "kshot_cached_models",
            "gauge",
            (),
            "Adapted models in memory.",
            _one(lambda now: now.cached_count),
        ),
        *_level(
            "kshot_cached_bytes", "Bytes of adapted models in memory.", lambda now: now.cached_bytes
        ),
        *_level("kshot_stored_models", "Adapted models in the store.", lambda now: now.models),
        *_level(
            "kshot_stored_bytes",
            "Bytes of adapted models in the store.",
            lambda now: now.model_bytes,
        ),
        Metric(
            "kshot_store_sweeps_total",
            "counter",
            (),
            "Sweeps of expired models.",
            _one(lambda now: now.store_events.sweep_count),
        ),
        Metric(
            "kshot_store_expired_total",
            "counter",
            (),
            "Adapted models that were removed because they had expired.",
            _one(lambda now: now.store_events.expired_count),
        ),
        Metric(
            "kshot_store_quarantined_total",
            "counter",
            (),
            "Adapted models whose file was damaged.",
            _one(lambda now: now.store_events.quarantined_count),
        ),
        Metric(
            "kshot_tenant_calls_total",
            "counter",
            ("tenant",),
            "Finished calls by tenant; empty for calls without a key.",
            _by_tenant(lambda tenant: tenant.call_count),
        ),
        Metric(
            "kshot_tenant_adapt_seconds_total",
            "counter",
            ("tenant",),
            "Time that engines computed, by tenant.",
            _by_tenant(lambda tenant: tenant.adapt_seconds),
        ),
        Metric(
            "kshot_tenant_models",
            "gauge",
            ("tenant",),
            "Adapted models in the store by tenant.",
            _by_tenant(lambda tenant: tenant.model_count),
        ),
        Metric(
            "kshot_tenant_bytes",
            "gauge",
            ("tenant",),
            "Bytes of adapted models in the store by tenant.",
            _by_tenant(lambda tenant: tenant.model_bytes),
        ),
        Metric(
            "kshot_bundle_info",
            "gauge",
            ("model", "version", "digest", "labels"),
            "1 for each version that is served; the digest's first digits, labels with commas.",
            _bundles,
        ),
        Metric(
            "kshot_build_info",
            "gauge",
            ("version", "python"),
            "1; the versions of kshot and Python.",
            lambda _now: [((version, platform.python_version()), 1)],
        ),
    )
