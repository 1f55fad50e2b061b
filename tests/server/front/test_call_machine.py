"""A server against a dictionary that does the same: calls of two tenants in any order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
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

from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.ledger import DELETED, EXPIRED, Ledger
from studies.reliability.tasks import Task, make_tasks, measured

SHORT_SECONDS = 0.05
TENANTS = ("ada", "bob")
OF_ONE = {
    "Predict": wire.PredictRequest,
    "GetAdaptedModel": wire.GetAdaptedModelRequest,
    "UpdateAdaptedModel": wire.UpdateAdaptedModelRequest,
    "DeleteAdaptedModel": wire.DeleteAdaptedModelRequest,
    "ExportAdaptedModel": wire.ExportAdaptedModelRequest,
}


@dataclass
class Kept:
    """An adapted model: `state` is why it must no longer answer, or nothing."""

    id: str
    tenant: str
    task: Task
    etag: str
    state: str = ""


class CallMachine(RuleBasedStateMachine):
    """Keeps for each adapted model what it must answer; the server is one for all examples."""

    kept = Bundle("kept")
    stubs: dict[str, Any]
    tasks: list[Task]

    @rule(
        target=kept,
        tenant=st.sampled_from(TENANTS),
        number=st.integers(0, 5),
        short=st.booleans(),
    )
    def adapt(self, tenant: str, number: int, short: bool) -> Kept:
        task, request = self.tasks[number], wire.AdaptRequest()
        request.CopyFrom(self.tasks[number].request)
        request.options.ttl.FromMilliseconds(round(1e3 * (SHORT_SECONDS if short else 600)))
        adapted = self.stubs[tenant].Adapt(request, timeout=30).adapted_model
        assert adapted.weights_digest == task.weights_digest
        kept = Kept(adapted.id, tenant, task, adapted.etag)
        if short:
            expire(kept, adapted)
        return kept

    @rule(kept=kept, short=st.booleans())
    def renew(self, kept: Kept, short: bool) -> None:
        request = wire.UpdateAdaptedModelRequest(adapted_model=kept.id, etag=kept.etag)
        request.ttl.FromMilliseconds(round(1e3 * (SHORT_SECONDS if short else 900)))
        response = self.answer(kept, "UpdateAdaptedModel", request)
        if response is not None:
            assert response.adapted_model.etag != kept.etag
            kept.etag = response.adapted_model.etag
            if short:
                expire(kept, response.adapted_model)

    @rule(kept=kept, method=st.sampled_from(sorted(OF_ONE)))
    def ask_as_another(self, kept: Kept, method: str) -> None:
        """To others it never was."""
        (other,) = set(TENANTS) - {kept.tenant}
        request = OF_ONE[method](adapted_model=kept.id)
        if method == "Predict":
            request.queries.CopyFrom(kept.task.queries[0])
        if method == "UpdateAdaptedModel":
            request.ttl.FromSeconds(900)
        with pytest.raises(grpc.RpcError) as caught:
            getattr(self.stubs[other], method)(request, timeout=30)
        assert "ADAPTED_MODEL_NOT_FOUND" in reason(caught.value)

    @rule(kept=kept, number=st.integers(0, 5))
    def predict(self, kept: Kept, number: int) -> None:
        queries = kept.task.queries[number]
        request = wire.PredictRequest(adapted_model=kept.id, queries=queries)
        response = self.answer(kept, "Predict", request)
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
        response = self.stubs["ada"].AdaptAndPredict(request, timeout=30)
        found = np.frombuffer(response.probabilities.data, "<f4").reshape(task.answers[place].shape)
        np.testing.assert_allclose(found, task.answers[place], rtol=0, atol=1e-5)

    @rule(kept=kept)
    def get(self, kept: Kept) -> None:
        request = wire.GetAdaptedModelRequest(adapted_model=kept.id)
        response = self.answer(kept, "GetAdaptedModel", request)
        if response is not None:
            assert response.adapted_model.etag == kept.etag
            assert response.adapted_model.weights_digest == kept.task.weights_digest

    @rule(kept=kept)
    def export(self, kept: Kept) -> None:
        request = wire.ExportAdaptedModelRequest(adapted_model=kept.id)
        self.answer(kept, "ExportAdaptedModel", request)

    @rule(kept=kept, tenant=st.sampled_from(TENANTS))
    def list(self, kept: Kept, tenant: str) -> None:
        request, found = wire.ListAdaptedModelsRequest(page_size=3), set[str]()
        while True:
            response = self.stubs[tenant].ListAdaptedModels(request, timeout=30)
            found |= {adapted.id for adapted in response.adapted_models}
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        assert (kept.id in found) == (kept.state == "" and kept.tenant == tenant)

    @rule(kept=kept)
    def delete(self, kept: Kept) -> None:
        request = wire.DeleteAdaptedModelRequest(adapted_model=kept.id)
        if self.answer(kept, "DeleteAdaptedModel", request) is not None:
            kept.state = DELETED

    @rule(kept=consumes(kept))
    def delete_for_good(self, kept: Kept) -> None:
        self.delete(kept)

    def answer(self, kept: Kept, method: str, request: Any) -> Any:  # noqa: ANN401 -- messages of all kinds
        """Make a call about a model; return the answer, None where the model has rightly gone."""
        call = getattr(self.stubs[kept.tenant], method)
        if not kept.state:
            return call(request, timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        assert kept.state in reason(caught.value)
        return None


def expire(kept: Kept, adapted: wire.AdaptedModel) -> None:
    """Wait for a model's end: no rule meets it on the edge."""
    expires = adapted.expire_time.seconds + adapted.expire_time.nanos / 1e9
    threading.Event().wait(max(0.0, expires - time.time()) + 0.01)
    kept.state = EXPIRED


def reason(error: Any) -> str:  # noqa: ANN401 -- grpc has no type for it
    """Return the details of an error that is NOT_FOUND."""
    assert error.code() is grpc.StatusCode.NOT_FOUND
    details: bytes = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return details.decode("latin-1")


class KeyedStub:
    """Calls with a key; streams are read to their end."""

    def __init__(self, stub: Any, key: str) -> None:  # noqa: ANN401 -- stubs have no common type
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {key}"),)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)

        def keyed(request: Any, timeout: float) -> Any:  # noqa: ANN401 -- messages of all kinds
            answer = call(request, timeout=timeout, metadata=self._metadata)
            return list(answer) if method.startswith("Export") else answer

        return keyed


@pytest.fixture
def machine(
    start_server: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> Iterator[type[CallMachine]]:
    """The machine beside a server that holds two models in memory."""
    made = {name: new_key(name, Role.USER, None, datetime.now(UTC)) for name in TENANTS}
    keys = tuple(key for key, _ in made.values())
    access = tmp_path / "access.json"
    change_access(access, lambda file: replace(file, keys=keys), create=True)
    with start_server(cache_bytes=3000, max_hot_sessions=1, access=access) as server:
        stubs = {name: KeyedStub(server.stub, text) for name, (_, text) in made.items()}
        capabilities = stubs["ada"].GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)
        CallMachine.stubs = stubs
        CallMachine.tasks = measured(stubs["ada"], make_tasks(capabilities.models, 6))
        yield CallMachine


def test_calls_in_any_order_answer_as_one_by_one(machine: type[CallMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=8, stateful_step_count=30, deadline=None, derandomize=True),
    )
