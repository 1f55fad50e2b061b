"""A server against a dictionary that does the same: calls in any order, evictions and expiries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    rule,
    run_state_machine_as_test,
)

from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.ledger import DELETED, EXPIRED, Ledger
from studies.reliability.proof import measure_tasks
from studies.reliability.tasks import Task

SHORT_SECONDS = 0.05


@dataclass
class Kept:
    """An adapted model: `state` is why it must no longer answer, or nothing."""

    id: str
    task: Task
    expire_time: float
    state: str = ""


class CallMachine(RuleBasedStateMachine):
    """Keeps for each adapted model what it must answer; the server is one for all examples."""

    kept = Bundle("kept")
    stub: Any
    tasks: list[Task]

    @rule(target=kept, number=st.integers(0, 5), short=st.booleans())
    def adapt(self, number: int, short: bool) -> Kept:
        task, request = self.tasks[number], wire.AdaptRequest()
        request.CopyFrom(self.tasks[number].request)
        request.options.ttl.FromMilliseconds(round(1e3 * (SHORT_SECONDS if short else 600)))
        adapted = self.stub.Adapt(request, timeout=30).adapted_model
        assert adapted.weights_digest == task.weights_digest
        expires = adapted.expire_time.seconds + adapted.expire_time.nanos / 1e9
        kept = Kept(adapted.id, task, expires)
        if short:  # no rule meets it on the edge
            threading.Event().wait(max(0.0, expires - time.time()) + 0.01)
            kept.state = EXPIRED
        return kept

    @rule(kept=kept, number=st.integers(0, 5))
    def predict(self, kept: Kept, number: int) -> None:
        queries = kept.task.queries[number]
        request = wire.PredictRequest(adapted_model=kept.id, queries=queries)
        response = self.answer(kept, self.stub.Predict, request)
        if response is not None:
            ledger = Ledger()
            ledger.compare(kept.id, kept.task, number, response.probabilities, 1e-5)
            assert ledger.faults == []
            assert response.weights_digest == kept.task.weights_digest
            assert list(response.class_names) == list(kept.task.class_names)

    @rule(number=st.integers(0, 5), place=st.integers(0, 5))
    def adapt_and_predict(self, number: int, place: int) -> None:
        task = self.tasks[number]
        request = wire.AdaptAndPredictRequest(
            model=task.request.model,
            support_set=task.request.support_set,
            options=task.request.options,
            queries=task.queries[place],
        )
        response = self.stub.AdaptAndPredict(request, timeout=30)
        found = np.frombuffer(response.probabilities.data, "<f4").reshape(task.answers[place].shape)
        np.testing.assert_allclose(found, task.answers[place], rtol=0, atol=1e-5)

    @rule(kept=kept)
    def get(self, kept: Kept) -> None:
        request = wire.GetAdaptedModelRequest(adapted_model=kept.id)
        response = self.answer(kept, self.stub.GetAdaptedModel, request)
        if response is not None:
            assert response.adapted_model.weights_digest == kept.task.weights_digest

    @rule(kept=kept)
    def export(self, kept: Kept) -> None:
        request = wire.ExportAdaptedModelRequest(adapted_model=kept.id)

        def parts(request: wire.ExportAdaptedModelRequest, timeout: float) -> object:
            return list(self.stub.ExportAdaptedModel(request, timeout=timeout))

        self.answer(kept, parts, request)

    @rule(kept=kept)
    def list(self, kept: Kept) -> None:
        request, found = wire.ListAdaptedModelsRequest(page_size=3), set[str]()
        while True:
            response = self.stub.ListAdaptedModels(request, timeout=30)
            found |= {adapted.id for adapted in response.adapted_models}
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        assert (kept.id in found) == (kept.state == "")

    @rule(kept=kept)
    def delete(self, kept: Kept) -> None:
        request = wire.DeleteAdaptedModelRequest(adapted_model=kept.id)
        if self.answer(kept, self.stub.DeleteAdaptedModel, request) is not None:
            kept.state = DELETED

    @rule(kept=consumes(kept))
    def delete_for_good(self, kept: Kept) -> None:
        self.delete(kept)

    def answer(self, kept: Kept, call: Callable[..., Any], request: Any) -> Any:  # noqa: ANN401 -- messages of all kinds
        """Make a call about a model; return the answer, None where the model has rightly gone."""
        if not kept.state:
            return call(request, timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert kept.state.encode() in details
        return None


@pytest.fixture
def machine(
    start_server: Callable[..., AbstractContextManager[Any]],
) -> Iterator[type[CallMachine]]:
    """The machine beside a server that holds two models in memory."""
    with start_server(cache_bytes=3000, max_hot_sessions=1) as server:
        CallMachine.stub = server.stub
        CallMachine.tasks = measure_tasks(server.address, 6)
        yield CallMachine


def test_calls_in_any_order_answer_as_one_by_one(machine: type[CallMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=8, stateful_step_count=30, deadline=None, derandomize=True),
    )
