"""The metrics' table, as Prometheus reads it and as the page for operators shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kshot.server.watch.exposition import Exposition
from kshot.server.watch.metrics import MAX_TENANTS, OTHER_TENANTS, metrics
from kshot.server.watch.statistics import Statistics, TenantUse

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy" / "grafana" / "kshot.json"
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
METRICS = {metric.name: metric for metric in metrics("1.0")}
SUFFIXES = ("_bucket", "_sum", "_count")


def samples(statistics: Statistics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    exposition = Exposition(lambda: statistics, "1.0")
    _, content = exposition.text("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def test_every_metric_has_samples_and_its_labels(statistics: Statistics) -> None:
    found: dict[str, set[str]] = {}
    for name, labels in samples(statistics):
        base = name
        if name not in METRICS:
            base = re.sub(f"({'|'.join(SUFFIXES)})$", "", name)
        found.setdefault(base, set()).update(label for label, _ in labels)

    for name, metric in METRICS.items():
        extra = {"le"} if metric.kind == "histogram" else set()
        assert found.pop(name) == {*metric.labels} | extra, name
    assert all(name.startswith("process_") for name in found), found


def test_values_are_those_of_the_statistics(statistics: Statistics) -> None:
    found = samples(statistics)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    refused = {"method": "Predict", "code": "UNAVAILABLE", "reason": "QUEUE_FULL"}
    assert value("kshot_calls_total", **refused) == 1
    adapt = {"method": "Adapt", "phase": "compute"}
    assert value("kshot_call_phase_seconds_bucket", le="0.001", **adapt) == 0
    assert value("kshot_call_phase_seconds_bucket", le="0.002", **adapt) == 1
    assert value("kshot_call_phase_seconds_bucket", le="+Inf", **adapt) == 1
    assert value("kshot_call_phase_seconds_sum", **adapt) == pytest.approx(0.0015)
    assert value("kshot_call_seconds_count", method="Predict", code="OK") == 1
    assert value("kshot_queue_calls", queue="predicting") == 2
    assert value("kshot_queue_calls_limit", queue="adapting") == 10
    assert value("kshot_engines_ready") == 1
    assert value("kshot_engine_ends_total") == 5
    assert value("kshot_stored_bytes_limit") == 110
    assert value("kshot_store_quarantined_total") == 14
    assert value("kshot_tenant_calls_total", tenant="red") == 2
    assert value("kshot_tenant_bytes", tenant="blue") == 200
    served = {"model": "tiny", "version": "1", "digest": "ab" * 6, "labels": "beta,stable"}
    assert value("kshot_bundle_info", **served) == 1


def test_refused_calls_are_in_no_phase(statistics: Statistics) -> None:
    """Many that are refused at once would hide how long the others wait."""
    found = samples(statistics)
    labels = frozenset({"method": "Predict", "phase": "queue"}.items())

    assert found["kshot_call_phase_seconds_count", labels] == 1


def test_further_tenants_are_counted_together(statistics: Statistics) -> None:
    each = TenantUse(1, 0.5, model_count=3)
    tenants = {f"tenant-{number}": each for number in range(MAX_TENANTS + 20)}

    found = samples(replace(statistics, tenants=tenants))

    named = {
        dict(labels)["tenant"]: value
        for (name, labels), value in found.items()
        if name == "kshot_tenant_calls_total"
    }
    assert len(named) == MAX_TENANTS + 1
    assert named[OTHER_TENANTS] == 20
    others = frozenset({("tenant", OTHER_TENANTS)})
    assert found["kshot_tenant_models", others] == 60
    assert found["kshot_tenant_adapt_seconds_total", others] == 10


def test_two_servers_of_a_process_share_nothing(statistics: Statistics) -> None:
    assert samples(statistics)
    assert samples(replace(statistics, running_count=0))["kshot_calls_running", frozenset()] == 0


def expressions(document: Any) -> list[str]:  # noqa: ANN401 -- JSON
    """Return the values of `expr` and of variables' `query`, wherever they stand."""
    if isinstance(document, list):
        return [each for item in document for each in expressions(item)]
    if not isinstance(document, dict):
        return []
    own = [
        value
        for key, value in document.items()
        if isinstance(value, str) and (key == "expr" or (key == "query" and "kshot" in value))
    ]
    return own + [each for value in document.values() for each in expressions(value)]


def check_expression(text: str) -> None:
    """Assert that every metric and label of an expression is one of the server's."""
    used = set[str]()
    for name, selector in re.findall(r"\b((?:kshot|process)_\w+)(\{[^}]*\})?", text):
        if name.startswith("process_"):
            continue
        base = name if name in METRICS else re.sub(f"({'|'.join(SUFFIXES)})$", "", name)
        metric = METRICS[base]
        assert (base != name) == (metric.kind == "histogram"), text
        labels = {*metric.labels, "instance", "job"} | ({"le"} if base != name else set())
        assert {*re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)} <= labels, text
        if name.endswith("_total") or base != name:
            assert re.search(rf"(rate|increase)\({name}", text), f"a counter as it is: {text}"
        used |= labels
    assert used or "process_" in text or text.startswith("up"), text
    for group in re.findall(r"\bby\s*\(([^)]*)\)", text):
        assert {label.strip() for label in group.split(",")} <= used, text


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    document = json.loads(DASHBOARD.read_text())
    found = [each for each in expressions(document) if not each.startswith("label_values")]

    assert len(found) >= 15
    for text in found:
        check_expression(text.replace("$__rate_interval", "5m"))
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            legends = re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
            assert all(legend in target["expr"] for legend in legends), panel["title"]
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    found = re.findall(r"^ *expr: (.+)$", RULES.read_text(), re.MULTILINE)

    assert len(found) >= 5
    for text in found:
        check_expression(text)


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(kshot_\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)

    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert listed == {name: (metric.kind, metric.labels) for name, metric in METRICS.items()}
    assert len(rows) == len(listed)
