"""Versions of bundles on a server: their names, their change while it serves, what stays."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kshot.bundle import Bundle, Grayscale, InputSpec, Rescale, Resize
from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.oip.v2.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import admin_pb2 as admin_wire
from kshot.v1.admin_pb2_grpc import AdminServiceStub

Make = Callable[..., Any]
WriteVersion = Callable[..., Bundle]
StartServer = Callable[..., AbstractContextManager[Any]]

WAIT = 906
UNLOADABLE = 66


@dataclass
class Versioned:
    """A server of a repository, and calls with an administrator's key."""

    server: Any
    root: Path
    metadata: Any

    def label(self, labels: str) -> None:
        (self.root / "tiny" / "labels.json").write_text(labels)

    def reload(self) -> list[tuple[int, list[str], bool]]:
        stub = AdminServiceStub(self.server.channel)
        request = admin_wire.ReloadBundlesRequest()
        answer = stub.ReloadBundles(request, timeout=30, metadata=self.metadata)
        assert {bundle.model for bundle in answer.bundles} == {"tiny"}
        return [(each.version, list(each.labels), each.loaded) for each in answer.bundles]

    def adapt(self, request: wire.AdaptRequest, model: str) -> wire.AdaptedModel:
        request.model = model
        answer = self.server.stub.Adapt(request, timeout=30, metadata=self.metadata)
        return answer.adapted_model  # type: ignore[no-any-return]  # a stub without types

    def predict(self, model_id: str, queries: wire.Images) -> wire.PredictResponse:
        request = wire.PredictRequest(adapted_model=model_id, queries=queries)
        return self.server.stub.Predict(request, timeout=30, metadata=self.metadata)  # type: ignore[no-any-return]  # a stub without types

    def describe(self, model_id: str) -> wire.AdaptedModel:
        request = wire.GetAdaptedModelRequest(adapted_model=model_id)
        answer = self.server.stub.GetAdaptedModel(request, timeout=30, metadata=self.metadata)
        return answer.adapted_model  # type: ignore[no-any-return]  # a stub without types

    def listed(self, model: str) -> list[str]:
        request = wire.ListAdaptedModelsRequest(model=model)
        answer = self.server.stub.ListAdaptedModels(request, timeout=30, metadata=self.metadata)
        return [each.id for each in answer.adapted_models]

    def served(self) -> dict[str, tuple[int, list[str]]]:
        request = wire.GetCapabilitiesRequest()
        answer = self.server.stub.GetCapabilities(request, timeout=30, metadata=self.metadata)
        return {each.model: (each.version, list(each.labels)) for each in answer.models}

    def ready(self, name: str, version: str = "") -> bool:
        stub = GRPCInferenceServiceStub(self.server.channel)
        request = oip.ModelReadyRequest(name=name, version=version)
        return bool(stub.ModelReady(request, timeout=30, metadata=self.metadata).ready)

    def stock_versions(self, name: str) -> list[str]:
        stub = GRPCInferenceServiceStub(self.server.channel)
        request = oip.ModelMetadataRequest(name=name)
        return list(stub.ModelMetadata(request, timeout=30, metadata=self.metadata).versions)

    def serving(self) -> bool:
        stub = health_pb2_grpc.HealthStub(self.server.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=30)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def versioned(
    start_server: StartServer, write_version: WriteVersion, tmp_path: Path
) -> Iterator[Versioned]:
    """A server of the tiny model in versions 1, which is stable, and 2."""
    root, access = tmp_path / "repository", tmp_path / "access.json"
    key, text = new_key("operator", Role.ADMIN, None, datetime.now(UTC))
    change_access(access, lambda file: replace(file, keys=(key,)), create=True)
    for version in (1, 2):
        write_version(root, version)
    (root / "tiny" / "labels.json").write_text('{"stable": 1}')
    settings: dict[str, Any] = {"repositories": (root,), "bundles": (), "poll_repository": 0.0}
    with start_server(access=access, **settings) as server:
        yield Versioned(server, root, [("authorization", f"Bearer {text}")])


def test_versions_change_while_a_server_serves(
    versioned: Versioned,
    write_version: WriteVersion,
    adapt_request: Make,
    queries: Make,
    refusal: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What no call holds any more is freed."""
    caplog.set_level("INFO")
    assert versioned.served() == {"tiny": (1, ["stable"]), "tiny@2": (2, [])}
    digests = {
        name: versioned.adapt(adapt_request(), name).bundle_digest
        for name in ("tiny", "tiny@stable", "tiny@1", "tiny@2")
    }
    assert digests["tiny"] == digests["tiny@stable"] == digests["tiny@1"] != digests["tiny@2"]
    lengths = {name: len(versioned.listed(name)) for name in ("tiny", "tiny@stable", "tiny@2")}
    assert lengths == {"tiny": 4, "tiny@stable": 3, "tiny@2": 1}
    refused = refusal(lambda: versioned.adapt(adapt_request(), "tiny@3"))
    assert refused.reason == "MODEL_NOT_FOUND"
    assert "expected one of tiny, tiny@2" in refused.text
    kept = versioned.adapt(adapt_request(), "tiny")
    before = versioned.predict(kept.id, queries())

    newer = write_version(versioned.root, 3)
    versioned.label('{"stable": 3, "old": 1}')
    assert versioned.reload() == [(1, ["old"], False), (2, [], False), (3, ["stable"], True)]

    assert versioned.served() == {
        "tiny": (3, ["stable"]),
        "tiny@2": (2, []),
        "tiny@1": (1, ["old"]),
    }
    assert versioned.adapt(adapt_request(), "tiny").bundle_digest == newer.digest
    assert versioned.predict(kept.id, queries()).probabilities == before.probabilities
    assert versioned.stock_versions("tiny") == ["3", "2", "1"]
    assert versioned.stock_versions(kept.id) == ["1"]
    assert all(versioned.ready("tiny", version) for version in ("", "2", "old", "stable"))
    assert not versioned.ready("tiny", "4")
    assert versioned.ready(kept.id, "1")

    unloadable = write_version(versioned.root, UNLOADABLE)
    refused = refusal(versioned.reload)
    assert "tiny/66: the engine: its network is another" in refused.violations["bundles"]
    assert list(versioned.served()) == ["tiny", "tiny@2", "tiny@1"]
    assert versioned.serving()
    assert versioned.adapt(adapt_request(), "tiny@2").bundle_digest == digests["tiny@2"]

    shutil.rmtree(unloadable.path)
    shutil.rmtree(versioned.root / "tiny" / "1")
    versioned.label('{"stable": 3}')
    assert versioned.reload() == [(2, [], False), (3, ["stable"], False)]
    while "bundle_unloaded" not in caplog.messages:  # pytest's time limit ends this
        threading.Event().wait(0.01)
    refused = refusal(lambda: versioned.predict(kept.id, queries()))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "MODEL_CHANGED")
    assert refused.details["ErrorInfo"].metadata["served"] == "tiny@3"
    assert not versioned.ready(kept.id)


def test_a_call_that_has_begun_keeps_its_version(
    versioned: Versioned,
    adapt_request: Make,
    queries: Make,
    refusal: Make,
    wait_arrival: Callable[[], str],
    let_go: Callable[[], int],
) -> None:
    digest = versioned.adapt(adapt_request(), "tiny@2").bundle_digest
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(versioned.adapt, adapt_request(seed=WAIT), "tiny@2")
        wait_arrival()
        shutil.rmtree(versioned.root / "tiny" / "2")
        assert versioned.reload() == [(1, ["stable"], False)]
        with pytest.raises(grpc.RpcError):
            versioned.adapt(adapt_request(), "tiny@2")
        let_go()
        adapted = waiting.result()

    assert adapted.bundle_digest == digest
    refused = refusal(lambda: versioned.predict(adapted.id, queries()))
    assert refused.details["ErrorInfo"].metadata["served"] == "tiny@1"


def test_a_model_is_adapted_again_where_its_caller_asked_for_it(
    versioned: Versioned,
    write_version: WriteVersion,
    adapt_request: Make,
    queries: Make,
    refusal: Make,
) -> None:
    """Once, by eight calls together; it keeps its id and says in each answer what it is."""
    asked = {"readapt": True, "durability": wire.DURABILITY_MEMORY, "ttl": {"seconds": 500}}
    before = versioned.adapt(adapt_request(**asked), "tiny")
    fixed = versioned.adapt(adapt_request(), "tiny")
    fresh = versioned.adapt(adapt_request(), "tiny@2")
    assert versioned.predict(before.id, queries()).warnings == []
    shutil.rmtree(versioned.root / "tiny" / "1")
    versioned.label("{}")
    versioned.reload()
    assert versioned.ready(before.id)
    assert not versioned.ready(before.id, "1")
    assert not versioned.ready(fixed.id)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: versioned.predict(before.id, queries()), range(8)))

    after = versioned.describe(before.id)
    assert (after.bundle_digest, after.model_version) == (fresh.bundle_digest, 2)
    assert after.weights_digest == fresh.weights_digest
    assert after.adaptation_digest == fresh.adaptation_digest
    assert after.etag != before.etag
    assert after.parent == after.id
    assert (after.create_time, after.expire_time) == (before.create_time, before.expire_time)
    assert after.options == before.options
    wanted = versioned.predict(fresh.id, queries())
    for answer in (*answers, versioned.predict(before.id, queries())):
        assert answer.probabilities == wanted.probabilities
        assert answer.weights_digest == fresh.weights_digest
        assert ["adapted it again, to tiny@2" in text for text in answer.warnings] == [True]
    assert refusal(lambda: versioned.predict(fixed.id, queries())).reason == "MODEL_CHANGED"

    steps = (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 127))
    write_version(versioned.root, 3, input=InputSpec((1, 4, 4), steps))
    shutil.rmtree(versioned.root / "tiny" / "2")
    versioned.reload()
    assert not versioned.ready(before.id)
    refused = refusal(lambda: versioned.predict(before.id, queries()))
    assert refused.reason == "MODEL_CHANGED"
    assert "tiny@3 prepares pictures in another way" in refused.text
