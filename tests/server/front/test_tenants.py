"""Tenants with keys: their quotas, and their requests' ids."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.server.access.limits import Limits
from kshot.v1 import adaptation_pb2 as wire
from tests.server.front.fake_engine import HANG_UNTIL_LEFT

Make = Callable[..., Any]
ID = "9b2d3c52-63f4-4b8e-a1d7-5f0c7e9d2a41"
OTHER_ID = "9b2d3c52-63f4-4b8e-a1d7-5f0c7e9d2a42"
TENANTS = {
    "free": Limits(),
    "other": Limits(),
    "few": Limits(max_models=2),
    "small": Limits(max_bytes=100),
    "brief": Limits(max_adapt_seconds=0.0015),
    "alone": Limits(max_calls=1),
    "barred": Limits(models=("photos",)),
}
KEYS = {name: new_key(name, Role.USER, None, datetime.now(UTC)) for name in TENANTS}


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An access file with a key for each tenant."""
    path = tmp_path_factory.mktemp("access") / "access.json"
    records = tuple(record for record, _ in KEYS.values())
    change_access(path, lambda file: replace(file, keys=records, tenants=TENANTS), create=True)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's adapted models."""
    return tmp_path_factory.mktemp("tenants") / "store"


@pytest.fixture(scope="module")
def shared(
    make_config: Make,
    run_in_thread: Make,
    access: Path,
    store: Path,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[Any]:
    """A server of all tenants."""
    with run_in_thread(make_config(access=access, store=store)) as server:
        yield server


def key_of(tenant: str) -> dict[str, Sequence[tuple[str, str]]]:
    return {"metadata": [("authorization", f"Bearer {KEYS[tenant][1]}")]}


def adapt(server: Any, tenant: str, request: Any) -> Any:  # noqa: ANN401 -- messages
    return server.stub.Adapt(request, timeout=30, **key_of(tenant))


def named(request: Any, request_id: str = ID) -> Any:  # noqa: ANN401 -- any message
    request.request_id = request_id
    return request


def test_requests_at_once_adapt_once(shared: Any, adapt_request: Make, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    request = named(adapt_request())
    calls = [shared.stub.Adapt.future(request, timeout=30, **key_of("free")) for _ in range(100)]
    answers = [call.result() for call in calls]
    listed = shared.stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), **key_of("free"))
    reused = refusal(lambda: adapt(shared, "free", named(adapt_request(seed=1))))

    assert {answer.adapted_model.id for answer in answers} == {listed.adapted_models[0].id}
    assert len(listed.adapted_models) == 1
    assert sum(not answer.deduplicated for answer in answers) == 1
    assert (reused.code, reused.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert not adapt(shared, "other", request).deduplicated


def test_an_answer_outlives_the_server(
    shared: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    refusal: Make,
    run_in_thread: Make,
    make_config: Make,
    access: Path,
    store: Path,
) -> None:
    """A copy of the store while it is open is what a SIGKILL leaves."""
    request = named(adapt_request(seed=2), OTHER_ID)
    first = adapt(shared, "free", request)
    copy = store.with_name("copy")
    shutil.copytree(store, copy)
    delete = wire.DeleteAdaptedModelRequest(adapted_model=first.adapted_model.id)
    with run_in_thread(make_config(access=access, store=copy)) as server:
        again = adapt(server, "free", request)
        server.stub.DeleteAdaptedModel(delete, timeout=30, **key_of("free"))
        refused = refusal(lambda: adapt(server, "free", request))

    assert not first.deduplicated
    assert again.deduplicated
    assert (again.adapted_model, again.report) == (first.adapted_model, first.report)
    assert refused.reason == "ADAPTED_MODEL_DELETED"


def test_a_revision_with_an_id_is_made_once(shared: Any, adapt_request: Make) -> None:  # noqa: ANN401 -- a running server
    old = adapt(shared, "free", adapt_request()).adapted_model.id
    request = wire.ReviseAdaptedModelRequest(adapted_model=old, removed_indices=[0])
    request.request_id = "00000000-0000-4000-8000-000000000001"
    answers = [
        shared.stub.ReviseAdaptedModel(request, timeout=30, **key_of("free")) for _ in range(2)
    ]

    assert [answer.deduplicated for answer in answers] == [False, True]
    assert answers[0].adapted_model == answers[1].adapted_model


def test_models_and_bytes_have_quotas(shared: Any, adapt_request: Make, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    request = adapt_request()
    for _ in range(2):
        adapt(shared, "few", request)
    models = refusal(lambda: adapt(shared, "few", request))
    size = refusal(lambda: adapt(shared, "small", request))

    assert (models.code, models.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert models.details["QuotaFailure"].violations[0].subject == "models"
    assert "limit of 2 models is reached; delete adapted models" in models.text
    assert size.details["ErrorInfo"].metadata == {"unit": "bytes", "limit": "100"}


def test_adapting_has_a_quota(shared: Any, adapt_request: Make, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    """The fake engine computes for a millisecond each time."""
    for _ in range(2):
        adapt(shared, "brief", adapt_request())
    refused = refusal(lambda: adapt(shared, "brief", adapt_request()))
    both = wire.AdaptAndPredictRequest(model="tiny", support_set=adapt_request().support_set)
    call = shared.stub.AdaptAndPredict

    assert refused.details["ErrorInfo"].metadata["unit"] == "adapt seconds"
    assert "it may adapt again in 3600 s" in refused.text
    assert refusal(lambda: call(both, timeout=30, **key_of("brief"))).reason == "QUOTA_EXCEEDED"


def test_calls_at_once_have_a_quota(
    shared: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    refusal: Make,
    wait_arrival: Callable[[], str],
) -> None:
    hanging = shared.stub.Adapt.future(adapt_request(seed=HANG_UNTIL_LEFT), **key_of("alone"))
    wait_arrival()
    listing = wire.ListAdaptedModelsRequest()
    refused = refusal(lambda: shared.stub.ListAdaptedModels(listing, timeout=30, **key_of("alone")))
    hanging.cancel()
    wait_arrival()

    assert (refused.code, refused.reason) == ("UNAVAILABLE", "TOO_MANY_CALLS")
    assert "RetryInfo" in refused.details


def test_a_barred_model_is_not_there(shared: Any, adapt_request: Make, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    request, unnamed = adapt_request(), adapt_request()
    unnamed.model = ""
    refused = [
        refusal(lambda each=each: adapt(shared, "barred", each)) for each in (request, unnamed)
    ]
    ask = wire.GetCapabilitiesRequest()
    barred = shared.stub.GetCapabilities(ask, timeout=30, **key_of("barred"))
    few = shared.stub.GetCapabilities(ask, timeout=30, **key_of("few"))

    assert {each.reason for each in refused} == {"MODEL_NOT_FOUND"}
    assert "tiny" not in refused[1].text
    assert len(barred.models) == 0
    assert (few.limits.tenant, few.limits.tenant_adapted_model_count) == ("few", 2)
    assert [model.model for model in few.models] == ["tiny"]


def test_a_barred_caller_hears_no_remedy(shared: Any, adapt_request: Make, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    """To serve a model would not let in who may not use it."""
    request = adapt_request()
    request.model = "omniglot"
    barred = refusal(lambda: adapt(shared, "barred", request))
    free = refusal(lambda: adapt(shared, "free", request))

    assert "serve it with `--bundle omniglot`" in free.text
    assert "--bundle" not in barred.text


def test_without_a_key_nothing_is_told(shared: Any, refusal: Make) -> None:  # noqa: ANN401 -- a running server
    refused = refusal(
        lambda: shared.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)
    )

    assert refused.code == grpc.StatusCode.UNAUTHENTICATED.name
