"""Metrics in the formats of Prometheus, from a registry of the server's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import cast

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kshot.server.watch.finished_calls import BOUNDS, Times
from kshot.server.watch.metrics import Metric, Sample, metrics
from kshot.server.watch.statistics import Statistics

_BUCKETS = (*map(floatToGoString, BOUNDS), "+Inf")
Take = Callable[[], Statistics]


class Exposition:
    """Answers scrapes from statistics that `take` gives; any thread may use it."""

    def __init__(self, take: Take, version: str) -> None:
        self._take = take
        self._metrics = metrics(version)
        self.registry = CollectorRegistry()
        self.registry.register(cast(Collector, self))
        ProcessCollector(registry=self.registry)

    def describe(self) -> Iterator[Family]:
        """Yield the families without samples."""
        return (_family(metric, ()) for metric in self._metrics)

    def collect(self) -> Iterator[Family]:
        """Yield the families of one moment."""
        now = self._take()
        return (_family(metric, metric.samples(now)) for metric in self._metrics)

    def text(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and content that an `Accept` header asks for."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self.registry)


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, times in samples:
            if isinstance(times, Times):
                buckets = zip(_BUCKETS, accumulate(times.counts), strict=True)
                histogram.add_metric(labels, list(buckets), times.seconds)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        if not isinstance(value, Times):
            family.add_metric(labels, value)
    return family
