"""Candidates hold their images as long as crops may need them, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import Bundle, Head, Manifest, Scope
from kshot.server import adapter as adapter_module
from kshot.server.adaptation import AdaptResult
from kshot.server.adapter import Adapter
from kshot.server.call_context import begin_call
from kshot.server.checked_task import CheckedTask, task_for
from kshot.server.choice import Candidate
from kshot.server.engine_link.client import EngineFacts, EngineTask
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.workers import Workers

MakeModel = Callable[..., AdaptedModelRecord]
LABELS = (0, 0, 1, 1)


@pytest.fixture
def candidate(tail_bundle: Bundle, make_model: MakeModel) -> Candidate:
    """A support set of four images, for scope auto."""
    manifest: Manifest = tail_bundle.manifest
    options = replace(
        make_model().options, scope=Scope.AUTO, step_count=0, head=Head.RIDGE, time_budget=60.0
    )
    images = np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    task = EngineTask("tailed", tail_bundle.digest, images, LABELS, 2, options)
    encoder = Encoder(tail_bundle, Runtime())
    model = SimpleNamespace(bundle=tail_bundle, encoder=encoder, predictor=None)
    return Candidate(cast(Any, model), task_for(manifest, task, ("a", "b"), images))


def run(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, *calls: str, seconds: float = 1e-4
) -> list[CheckedTask]:
    """Let an adapter make these calls, one after another, and return what the engine gets."""
    given: list[CheckedTask] = []
    facts = EngineFacts("cpu", "fake", "none", "fake", {}, {"tailed": seconds} if seconds else {})

    async def adapt(task: CheckedTask, *_: object) -> AdaptResult:
        given.append(task)
        return AdaptResult(**cast(Any, dict.fromkeys(AdaptResult.__dataclass_fields__)))

    async def main() -> None:
        begin_call("Adapt")
        workers = Workers()
        engine = SimpleNamespace(facts=facts, adapt=None)
        adapter = Adapter(cast(Any, engine), Encodings(workers), workers)
        held = candidate
        for call in calls:
            if call == "refine":
                await adapter.refine(held, await adapt(held.task))
            else:
                held, _ = await getattr(adapter, call)(held)
        await workers.close()

    monkeypatch.setattr(adapter_module, "adapt", adapt)
    asyncio.run(main())
    return given


def test_the_only_candidates_tail_is_planned(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate
) -> None:
    (task,) = run(monkeypatch, candidate, "adapt")
    tail = task.engine_task.tail

    assert tail is not None and (tail.step_count, tail.fold_step_count) == (20, 12)
    assert tail.crop_maps.shape == (2, 4, 3, 4, 4)
    assert task.engine_task.support.shape == (4, 60, 1, 1)
    assert len(task.images) == 0


def test_several_candidates_wait_with_their_tails(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate
) -> None:
    compared, _, refined = run(monkeypatch, candidate, "adapt_head", "refine")

    assert compared.engine_task.tail is None and compared.tail is None
    assert len(compared.images) == 4
    assert refined.engine_task.tail is not None and len(refined.images) == 0


@pytest.mark.parametrize("call", ["adapt", "adapt_head"])
def test_images_that_no_crop_needs_are_dropped(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, call: str
) -> None:
    """An engine that measured no tail adapts none."""
    (task,) = run(monkeypatch, candidate, call, seconds=0)

    assert task.engine_task.tail is None and task.tail is None
    assert len(task.images) == 0


def test_what_a_call_computed_counts(monkeypatch: pytest.MonkeyPatch, candidate: Candidate) -> None:
    """Of a minute, 59 seconds went into decoding."""
    begin = adapter_module.current_call

    def late() -> Any:  # noqa: ANN401 -- a call
        call = begin()
        call.seconds["decode"] = 59.99
        return call

    monkeypatch.setattr(adapter_module, "current_call", late)
    (task,) = run(monkeypatch, candidate, "adapt")

    assert task.tail is not None and task.tail.plan is None
    assert task.tail.needed_seconds > 60
