from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from kshot.bundle import BatchNormMode, Bundle
from kshot.server import workers as workers_module
from kshot.server.call_context import Call, begin_call
from kshot.server.errors import CallCancelled, DeadlineExceeded, InvalidRequest, NonFiniteLogits
from kshot.server.predict import prediction
from kshot.server.predict import predictor as predictor_module
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.prediction import Answers, Question, answer, scored
from kshot.server.predict.predictor import Predictor
from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.workers import Workers

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
SUPPORT = BatchNormMode.SUPPORT


@pytest.fixture
def question(tiny_bundle: Bundle, make_arrays: Callable[..., AdaptedArrays]) -> Question:
    return Question(ServedModel(tiny_bundle, Predictor(tiny_bundle)), make_arrays(), SUPPORT)


@pytest.fixture(autouse=True)
def run_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let runs be of at most 8 images, in one thread; their sizes in the order of their ends."""
    sizes: list[int] = []
    run: Any = predictor_module._run

    def counted(session: object, feeds: dict[str, Floats], images_per_query: int) -> Floats:
        logits: Floats = run(session, feeds, images_per_query)
        sizes.append(len(feeds["inputs"]))
        return logits

    monkeypatch.setattr(predictor_module, "_run", counted)
    monkeypatch.setattr(predictor_module, "MAX_RUN_IMAGES", 8)
    monkeypatch.setattr(workers_module.os, "cpu_count", lambda: 1)
    return sizes


@asynccontextmanager
async def open_workers() -> AsyncIterator[Workers]:
    workers = Workers()
    try:
        yield workers
    finally:
        await workers.close()


def queries(count: int) -> Floats:
    return np.random.default_rng(count).random((count, 1, 4, 4), np.float32)


def ask(question: Question, inputs: Floats, workers: Workers) -> asyncio.Task[Answers]:
    """Ask as a call of its own."""

    async def call() -> Answers:
        begin_call("Predict")
        return await answer(question, lambda: inputs, workers)

    return asyncio.create_task(call())


def test_a_large_request_lets_others_come_in_between(
    question: Question, run_sizes: list[int]
) -> None:
    large, small = queries(35), queries(3)

    async def main() -> tuple[Answers, Answers]:
        async with open_workers() as workers:
            both = ask(question, large, workers), ask(question, small, workers)
            first, second = await asyncio.gather(*both)
            return first, second

    first, second = asyncio.run(main())

    assert run_sizes == [8, 3, 8, 8, 8, 3]
    for answers, inputs in ((first, large), (second, small)):
        wanted = question.model.predictor.logits(question.arrays, inputs, SUPPORT)
        np.testing.assert_allclose(answers.logits, wanted, atol=1e-5)
        np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-6)


def test_queries_of_transductive_mode_stay_together(
    question: Question, run_sizes: list[int]
) -> None:
    together = Question(question.model, question.arrays, BatchNormMode.TRANSDUCTIVE)

    async def main() -> Answers:
        async with open_workers() as workers:
            return await ask(together, queries(35), workers)

    answers = asyncio.run(main())

    assert run_sizes == [35]
    assert answers.mode is BatchNormMode.TRANSDUCTIVE


@pytest.mark.parametrize("error", [CallCancelled, DeadlineExceeded])
def test_an_ended_call_stops_before_the_next_run(
    question: Question,
    run_sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    def check(_: Call) -> None:
        if len(run_sizes) == 2:
            raise error

    monkeypatch.setattr(Call, "check", check)

    async def main() -> None:
        async with open_workers() as workers:
            with pytest.raises(error):
                await ask(question, queries(80), workers)

    asyncio.run(main())

    assert run_sizes == [8, 8]


def test_a_query_with_infinite_logits_is_named(question: Question) -> None:
    inputs = queries(20)
    inputs[13] = 3e38

    async def main() -> None:
        async with open_workers() as workers:
            with pytest.raises(NonFiniteLogits, match="13"):
                await ask(question, inputs, workers)

    asyncio.run(main())


def test_what_preparing_raises_is_raised(question: Question, run_sizes: list[int]) -> None:
    def refuse() -> Floats:
        raise InvalidRequest.about("queries", "expected images, got nonsense")

    async def main() -> None:
        begin_call("Predict")
        async with open_workers() as workers:
            with pytest.raises(InvalidRequest):
                await answer(question, refuse, workers)

    asyncio.run(main())

    assert run_sizes == []


def test_many_scores_leave_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def note(answers: Answers, *_others: object) -> Answers:
        threads.append(threading.current_thread().name)
        return answers

    monkeypatch.setattr(prediction, "with_known_scores", note)

    async def main() -> None:
        begin_call("Predict")
        workers = Workers()
        for count in (10, 1000):
            logits = np.zeros((count, 2), np.float32)
            arrays = AdaptedArrays({}, {}, logits, np.zeros(1000, np.float32))
            await scored(Answers(logits, logits, SUPPORT), arrays, None, workers)
        await workers.close()

    asyncio.run(main())

    assert threads[0] == "MainThread"
    assert threads[1].startswith("kshot-compute")
