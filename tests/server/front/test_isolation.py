"""Many clients at once, each with its own adapted model: nobody gets another's answer."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status

from kshot.bundle import Bundle, Grayscale, Manifest, Rescale, Resize, write_bundle
from kshot.server import adaptation, checked_task
from kshot.server.engine_link import client as engine_client
from kshot.server.rpc import encode
from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]

CLIENTS = 12
ROUNDS = 6


@pytest.mark.parametrize("cache_bytes", [0, 3000, 2**28], ids=["none", "two models", "all"])
def test_concurrent_clients_get_their_own_answers(
    start_server: StartServer, support_set: Make, queries: Make, cache_bytes: int
) -> None:
    def request(client: int) -> wire.AdaptRequest:
        way = 2 + client % 4
        support = support_set(way, 2, seed=client)
        del support.class_names[:]
        support.class_names.extend(f"{client}/{index}" for index in range(way))
        return wire.AdaptRequest(model="tiny", support_set=support)

    def predict(server: Any, model: str, client: int) -> wire.PredictResponse:  # noqa: ANN401 -- a running server
        call = wire.PredictRequest(adapted_model=model, queries=queries(3, seed=client))
        response: wire.PredictResponse = server.stub.Predict(call, timeout=60)
        return response

    with start_server(cache_bytes=cache_bytes) as server, ThreadPoolExecutor(CLIENTS) as pool:
        alone = []
        for client in range(CLIENTS):
            adapted = server.stub.Adapt(request(client), timeout=60).adapted_model
            alone.append((adapted.weights_digest, predict(server, adapted.id, client)))

        def run(client: int) -> None:
            digest, reference = alone[client]
            for _ in range(ROUNDS):
                adapted = server.stub.Adapt(request(client), timeout=60).adapted_model
                answer = predict(server, adapted.id, client)
                assert adapted.weights_digest == answer.weights_digest == digest
                assert answer.adapted_model == adapted.id
                assert answer.probabilities == reference.probabilities
                assert answer.predictions == reference.predictions
                server.stub.DeleteAdaptedModel(
                    wire.DeleteAdaptedModelRequest(adapted_model=adapted.id), timeout=60
                )
                with pytest.raises(grpc.RpcError):
                    predict(server, adapted.id, client)

        list(pool.map(run, range(CLIENTS)))


def test_an_adapted_model_of_another_bundle_is_refused(
    start_server: StartServer,
    adapt_request: Make,
    queries: Make,
    tiny_bundle: Bundle,
    tiny_templates: Any,  # noqa: ANN401 -- templates by mode
    tmp_path: Path,
) -> None:
    manifest: Manifest = replace(tiny_bundle.manifest, version=2, files={})
    newer = write_bundle(
        tmp_path / "b", manifest, tiny_bundle.read_weights(), tiny_templates, "# newer\n"
    )
    with start_server(store=tmp_path / "s") as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    request = wire.PredictRequest(adapted_model=model, queries=queries())

    with (
        start_server(store=tmp_path / "s", bundles=(newer.path,)) as server,
        pytest.raises(grpc.RpcError) as caught,
    ):
        server.stub.Predict(request, timeout=30)

    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None
    info = details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (error.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CHANGED")


def test_an_adapted_model_of_an_older_version_is_answered_by_it(
    start_server: StartServer,
    adapt_request: Make,
    tiny_bundle: Bundle,
    tiny_templates: Any,  # noqa: ANN401 -- templates by mode
    tmp_path: Path,
) -> None:
    """Its own preprocessing prepares the queries, and its temperatures divide the logits."""
    weights = tiny_bundle.read_weights()
    older, newer = (
        write_bundle(
            tmp_path / "b",
            replace(
                tiny_bundle.manifest,
                version=version,
                files={},
                input=replace(
                    tiny_bundle.manifest.input,
                    preprocessing=(Grayscale(), Resize(4, 4, "nearest"), Rescale(factor)),
                ),
            ),
            weights,
            tiny_templates,
            "# tiny\n",
        )
        for version, factor in ((1, 1 / 255), (2, 0.5))
    )
    tensor = wire.Tensor(datatype="UINT8", shape=[2, 4, 4], data=bytes(range(0, 256, 8)))
    answers = []
    with start_server(store=tmp_path / "s", bundles=(older.path,)) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model
        request = wire.PredictRequest(adapted_model=model.id, queries=wire.Images(tensor=tensor))
        answers.append(server.stub.Predict(request, timeout=30))

    with start_server(store=tmp_path / "s", bundles=(newer.path,)) as server:
        answers.append(server.stub.Predict(request, timeout=30))
        served = server.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).models[0]
        shutil.rmtree(older.path)
        answers.append(server.stub.Predict(request, timeout=30))

    assert answers[1].probabilities == answers[2].probabilities == answers[0].probabilities
    assert model.bundle_digest == older.digest
    assert served.bundle_digest == newer.digest


def test_what_is_long_runs_beside_the_event_loop(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: dict[str, str] = {}

    def watch(module: Any, name: str) -> None:  # noqa: ANN401 -- a module
        function = getattr(module, name)

        def watched(*arguments: object) -> object:
            threads[name] = threading.current_thread().name.rpartition("_")[0]
            return function(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(checked_task, "prepare_images")
    watch(adaptation, "weights_digest")
    watch(checked_task, "begin_adaptation_digest")
    watch(adaptation, "_finite")
    watch(engine_client, "_request")
    watch(encode, "add_predictions")
    model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    request = wire.PredictRequest(adapted_model=model, queries=queries(100), top_k=1000)
    server.stub.Predict(request, timeout=30)

    assert threads == {
        "prepare_images": "kshot-prepare",
        "weights_digest": "kshot-store",
        "begin_adaptation_digest": "kshot-store",
        "_finite": "kshot-store",
        "_request": "asyncio",
        "add_predictions": "kshot-compute",
    }
