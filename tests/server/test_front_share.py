"""What others ask for meanwhile does not count as the share of an adaptation."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kshot.server import front_share
from kshot.server.admission import Admission
from kshot.server.engine_link.engine_count import Share
from kshot.server.front import Front

OWN, FOREIGN = 1.0, 8.0


def measure(
    monkeypatch: pytest.MonkeyPatch, *, others_stay: bool = False, engine_lives: bool = True
) -> Share | None:
    """Measure while others predict in two of three rounds, or all the time."""
    adapting, predicting = Admission(8), Admission(8)
    engine_seconds, rounds = [0.0], [0]

    async def adapt_and_predict(*_: object) -> None:
        with adapting.admit():
            engine_seconds[0] += OWN
            rounds[0] += 1
            if rounds[0] % 3:
                with predicting.admit():
                    engine_seconds[0] += FOREIGN

    front: Any = SimpleNamespace(
        adapting=adapting,
        predicting=predicting,
        catalog=[None],
        adapt_and_predict=adapt_and_predict,
    )
    clock = (lambda _: engine_seconds[0]) if engine_lives else (lambda _: None)
    monkeypatch.setattr(front_share, "processor_seconds", clock)
    monkeypatch.setattr(front_share, "_blank", lambda _: (None, None))
    monkeypatch.setattr(front_share, "_LEAST_SECONDS", 0.0)
    if others_stay:
        monkeypatch.setattr(front_share, "_PATIENCE_SECONDS", 0.0)
        with predicting.admit():
            return asyncio.run(front_share.measure_share(cast(Front, front), 7))
    return asyncio.run(front_share.measure_share(cast(Front, front), 7))


def test_rounds_with_calls_of_others_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    share = measure(monkeypatch)

    assert share is not None
    assert (share.engine, share.quiet) == (OWN, True)


def test_on_a_server_without_a_pause_the_share_is_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    share = measure(monkeypatch, others_stay=True)

    assert share is not None
    assert share.engine > OWN
    assert not share.quiet


def test_without_the_engine_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(monkeypatch, engine_lives=False) is None
