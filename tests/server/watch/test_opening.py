from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kshot.server.config import ServerConfig
from kshot.server.errors import ConfigError, StartError
from kshot.server.watch import opening
from kshot.server.watch.opening import observing


def config(**settings: Any) -> ServerConfig:  # noqa: ANN401 -- any field
    return ServerConfig(bundles=(Path("x"),), store=Path("y"), **settings)


async def enter(settings: ServerConfig) -> bool:
    async with observing(settings) as observer:
        return observer.traces is not None


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let OpenTelemetry be missing, and list the events."""

    def fail(_process: str, _version: str) -> NoReturn:
        raise ImportError

    events: list[str] = []
    monkeypatch.setattr(opening, "start_tracing", fail)
    monkeypatch.setattr(
        opening, "log_event", lambda event, *_level, **_fields: events.append(event)
    )
    return events


def test_a_flag_for_traces_needs_the_libraries(without_libraries: list[str]) -> None:
    with pytest.raises(StartError, match=r"trace: .*pip install .*otel"):
        asyncio.run(enter(config(trace=True)))
    assert without_libraries == []


def test_variables_for_traces_without_libraries_are_an_event(
    without_libraries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be those of a whole machine."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")

    assert not asyncio.run(enter(config()))
    assert without_libraries == ["not_traced"]


def test_nobody_who_does_not_ask_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)

    assert not asyncio.run(enter(config()))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"metrics": "9464"}, r"metrics: expected HOST:PORT .* got '9464'"),
        ({"metrics": "::1:9464"}, "metrics: .* brackets"),
        ({"log_level": "loud"}, "log_level: expected one of debug, .* got 'loud'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**settings)
