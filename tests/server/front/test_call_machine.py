"""A server against a dictionary that does the same: calls of two tenants in any order.

In between an operator takes a version of the bundle away and brings it back, starts the server
again on the same store, and erases a tenant.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
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
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kshot.bundle import Bundle as ModelBundle
from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.server.config import ServerConfig
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import admin_pb2 as admin_wire
from kshot.v1.admin_pb2_grpc import AdminServiceStub
from studies.reliability.ledger import DELETED, EXPIRED, NOT_FOUND, Ledger
from studies.reliability.tasks import Task, make_tasks, measured

SHORT_SECONDS = 0.05
TENANTS = ("ada", "bob")
OPERATOR = "operator"
COMES_AND_GOES = "tiny@2"
Run = Callable[[ServerConfig], AbstractContextManager[Any]]
COMPUTING = ("Predict", "ExportAdaptedModel")
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


class Place:
    """A server that its operator changes, and calls with the keys of its tenants."""

    def __init__(self, run: Run, config: ServerConfig, keys: Mapping[str, str]) -> None:
        self._run, self._config, self._keys = run, config, keys
        self._running = ExitStack()
        (root,) = config.repositories
        self._there, self._away = root / "tiny" / "2", root / ".away"
        self.restart()

    def restart(self) -> None:
        """End the server and start another on the same store."""
        self._running.close()
        server = self._running.enter_context(self._run(self._config))
        self.stubs = {name: KeyedStub(server.stub, key) for name, key in self._keys.items()}
        self._admin = KeyedStub(AdminServiceStub(server.channel), self._keys[OPERATOR])

    def close(self) -> None:
        """End the server."""
        self._running.close()

    def serves(self, model: str) -> bool:
        """Tell whether the version of a task is there."""
        return model != COMES_AND_GOES or self._there.exists()

    def switch(self) -> None:
        """Take a version away, or bring it back."""
        if self._there.exists():
            self._there.rename(self._away)
        else:
            self._away.rename(self._there)
        self._admin.ReloadBundles(admin_wire.ReloadBundlesRequest(), timeout=30)

    def erase(self, tenant: str) -> int:
        """Erase a tenant; return how many of its models there were."""
        request = admin_wire.DeleteTenantRequest(tenant=tenant)
        return int(self._admin.DeleteTenant(request, timeout=30).adapted_model_count)


class CallMachine(RuleBasedStateMachine):
    """Keeps for each adapted model what it must answer; the server is one for all examples."""

    kept = Bundle("kept")
    place: Place
    tasks: list[Task]

    def __init__(self) -> None:
        super().__init__()
        self.all = list[Kept]()
        self.restarted = False

    @property
    def stubs(self) -> Mapping[str, Any]:
        """Calls by tenant."""
        return self.place.stubs

    @initialize(target=kept)
    def begin(self) -> Any:  # noqa: ANN401 -- several
        """Each tenant has a model of each version, if it is there."""
        return multiple(
            *(
                self.keep(tenant, number, 600)
                for tenant in TENANTS
                for number in (0, 1)
                if self.place.serves(self.tasks[number].request.model)
            )
        )

    @precondition(lambda self: not self.restarted)  # it takes as long as many calls
    @rule()
    def restart(self) -> None:
        self.place.restart()
        self.restarted = True
        self.ask_all()

    @rule()
    def switch(self) -> None:
        self.place.switch()
        self.ask_all()

    def ask_all(self) -> None:
        """Ask every model that there ever was."""
        for kept in self.all:
            self.predict(kept, 0)

    @precondition(lambda self: len(self.all) > 4)
    @rule(tenant=st.sampled_from(TENANTS))
    def erase(self, tenant: str) -> None:
        """Not even that they were is known afterwards."""
        theirs = [kept for kept in self.all if kept.tenant == tenant]
        count = self.place.erase(tenant)
        assert count >= sum(kept.state == "" for kept in theirs)
        for kept in theirs:
            kept.state = NOT_FOUND

    @rule(
        target=kept,
        tenant=st.sampled_from(TENANTS),
        number=st.integers(0, 5),
        short=st.booleans(),
    )
    def adapt(self, tenant: str, number: int, short: bool) -> Any:  # noqa: ANN401 -- one or none
        task = self.tasks[number]
        if not self.place.serves(task.request.model):
            assert "MODEL_NOT_FOUND" in refused(self.stubs[tenant].Adapt, task.request)
            return multiple()
        return self.keep(tenant, number, SHORT_SECONDS if short else 600)

    def keep(self, tenant: str, number: int, seconds: float) -> Kept:
        """Adapt a model; one with a short life has expired then."""
        task, request = self.tasks[number], wire.AdaptRequest()
        request.CopyFrom(task.request)
        request.options.ttl.FromMilliseconds(round(1e3 * seconds))
        adapted = self.stubs[tenant].Adapt(request, timeout=30).adapted_model
        assert adapted.weights_digest == task.weights_digest
        kept = Kept(adapted.id, tenant, task, adapted.etag)
        self.all.append(kept)
        if seconds == SHORT_SECONDS:
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
        assert NOT_FOUND in refused(getattr(self.stubs[other], method), request)

    @rule(kept=kept, number=st.integers(0, 5))
    def predict_again(self, kept: Kept, number: int) -> None:
        self.predict(kept, number)

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
        if not self.place.serves(request.model):
            assert "MODEL_NOT_FOUND" in refused(self.stubs["ada"].AdaptAndPredict, request)
            return
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
        if kept.state:
            assert kept.state in refused(call, request)
            return None
        if method in COMPUTING and not self.place.serves(kept.task.request.model):
            code = grpc.StatusCode.FAILED_PRECONDITION
            assert "MODEL_CHANGED" in refused(call, request, code)
            return None
        return call(request, timeout=30)


def expire(kept: Kept, adapted: wire.AdaptedModel) -> None:
    """Wait for a model's end: no rule meets it on the edge."""
    expires = adapted.expire_time.seconds + adapted.expire_time.nanos / 1e9
    threading.Event().wait(max(0.0, expires - time.time()) + 0.01)
    kept.state = EXPIRED


def refused(
    call: Callable[..., Any],
    request: Any,  # noqa: ANN401 -- messages of all kinds
    code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND,
) -> str:
    """Make a call that must fail with a code; return the details of its error."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    error: Any = caught.value
    assert error.code() is code
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
    make_config: Callable[..., ServerConfig],
    run_in_thread: Run,
    write_version: Callable[..., ModelBundle],
    pipes: Path,  # noqa: ARG001 -- the fake engine needs it
    tmp_path: Path,
) -> Iterator[type[CallMachine]]:
    """The machine beside a server that holds two models in memory."""
    roles = {**dict.fromkeys(TENANTS, Role.USER), OPERATOR: Role.ADMIN}
    made = {name: new_key(name, role, None, datetime.now(UTC)) for name, role in roles.items()}
    access, root = tmp_path / "access.json", tmp_path / "repository"
    records = tuple(key for key, _ in made.values())
    change_access(access, lambda file: replace(file, keys=records), create=True)
    for version in (1, 2):
        write_version(root, version, step=version)
    (root / "tiny" / "labels.json").write_text('{"stable": 1}')
    config = make_config(
        bundles=(),
        repositories=(root,),
        poll_repository=0.0,
        access=access,
        cache_bytes=3000,
        max_hot_sessions=1,
    )
    place = Place(run_in_thread, config, {name: text for name, (_, text) in made.items()})
    try:
        capabilities = place.stubs["ada"].GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)
        assert {model.model for model in capabilities.models} == {"tiny", COMES_AND_GOES}
        CallMachine.place = place
        CallMachine.tasks = measured(place.stubs["ada"], make_tasks(capabilities.models, 6))
        yield CallMachine
    finally:
        place.close()


def test_calls_in_any_order_answer_as_one_by_one(machine: type[CallMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=5, stateful_step_count=30, deadline=None, derandomize=True),
    )
