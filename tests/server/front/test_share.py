"""A server finds by itself how many engines pay, and has a spare before that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from kshot.bundle import Bundle
from kshot.server.engine_link import pool
from kshot.server.engine_link.engine_count import Share, best_count
from kshot.v1 import adaptation_pb2 as wire

StartServer = Callable[..., AbstractContextManager[Any]]


def test_a_server_measures_what_adaptations_take(
    start_server: StartServer,
    tiny_bundle: Bundle,
    encoder_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No caller sees anything of that, and nothing is stored."""
    measured: list[Share] = []
    chosen = threading.Event()

    def remember(share: Share, cores: float) -> int:
        measured.append(share)
        chosen.set()
        return best_count(share, cores)

    monkeypatch.setattr(pool, "best_count", remember)
    bundles = (tiny_bundle.path, encoder_bundle.path)
    with start_server(engines=0, engine_probe=0.05, bundles=bundles) as server:
        assert chosen.wait(60)
        kept = server.stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=30)

    (share,) = measured
    assert share.engine > 0
    assert share.front > share.loop > 0
    assert not kept.adapted_models
    assert "request" not in caplog.messages
