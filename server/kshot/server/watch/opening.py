"""Opens what a server is watched by, as its settings ask for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from kshot.bundle.signals.tracing import start_tracing, tracing_wanted
from kshot.local import pip_install
from kshot.server.config import ServerConfig, parse_address
from kshot.server.errors import StartError
from kshot.server.event_log import log_event
from kshot.server.watch.call_trace import CallTraces
from kshot.server.watch.metrics_port import MetricsPort
from kshot.server.watch.observer import CallObserver
from kshot.server.watch.statistics import Watched
from kshot.server.watch.version import server_version


@asynccontextmanager
async def observing(config: ServerConfig) -> AsyncIterator[CallObserver]:
    """Count calls inside the block, and trace them if that is wanted; raise `StartError`."""
    traces = _traces(config)
    try:
        yield CallObserver(traces=traces)
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.tracer.close)


@contextmanager
def answering_scrapes(config: ServerConfig, watched: Watched) -> Iterator[str]:
    """Answer Prometheus inside the block if that is wanted; give the address, or "".

    Raises `StartError`.
    """
    if not config.metrics:
        yield ""
        return
    from kshot.server.watch.exposition import Exposition

    host, port = parse_address("metrics", config.metrics)
    opened = MetricsPort(host, port, Exposition(watched.take, server_version()).text)
    try:
        yield opened.address
    finally:
        opened.close()


def _traces(config: ServerConfig) -> CallTraces | None:
    """Trace if the flag or OpenTelemetry's variables ask for it.

    Raises `StartError` if the flag does and the libraries are missing; for variables, which may be
    those of a whole machine, an event tells of it.
    """
    if not (config.trace or tracing_wanted()):
        return None
    try:
        return CallTraces(start_tracing("front", server_version()))
    except ImportError as error:
        problem = f"traces need OpenTelemetry: {pip_install('otel')}"
        if config.trace:
            raise StartError(f"trace: {problem}") from error
        log_event("not_traced", logging.WARNING, problem=problem)
        return None
