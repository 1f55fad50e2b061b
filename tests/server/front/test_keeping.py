"""What callers see of the store: restarts, its limits, expiry, damage."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]
Refuse = Callable[[Callable[[], object]], Any]


def test_adapted_models_are_there_after_a_restart(
    start_server: StartServer,
    adapt_request: Make,
    queries: Make,
    tmp_path: Path,
) -> None:
    with start_server(store=tmp_path / "s") as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model
        request = wire.PredictRequest(adapted_model=model.id, queries=queries())
        before = server.stub.Predict(request, timeout=30)
    with start_server(store=tmp_path / "s") as server:
        after = server.stub.Predict(request, timeout=30)
        got = server.stub.GetAdaptedModel(
            wire.GetAdaptedModelRequest(adapted_model=model.id), timeout=30
        )

    assert after.probabilities == before.probabilities
    assert got.adapted_model == model


def test_a_model_in_memory_ends_with_the_server(
    start_server: StartServer, adapt_request: Make, queries: Make, refusal: Refuse, tmp_path: Path
) -> None:
    """Until then it is as others are: found, listed, renewed, revised and exported."""
    request = adapt_request(durability=wire.DURABILITY_MEMORY)
    request.request_id = str(uuid.uuid4())
    with start_server(store=tmp_path / "s", cache_bytes=0) as server:
        stub = server.stub
        model = stub.Adapt(request, timeout=30).adapted_model
        repeated = stub.Adapt(request, timeout=30)
        wanted = wire.PredictRequest(adapted_model=model.id, queries=queries())
        answer = stub.Predict(wanted, timeout=30)
        renewal = wire.UpdateAdaptedModelRequest(adapted_model=model.id, ttl={"seconds": 99})
        renewed = stub.UpdateAdaptedModel(renewal, timeout=30).adapted_model
        revision = wire.ReviseAdaptedModelRequest(adapted_model=model.id, removed_indices=[0])
        inherited = stub.ReviseAdaptedModel(revision, timeout=30).adapted_model
        revision.options.durability = wire.DURABILITY_DISK
        kept = stub.ReviseAdaptedModel(revision, timeout=30).adapted_model
        listed = stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=30)
        export = wire.ExportAdaptedModelRequest(adapted_model=model.id)
        exported = b"".join(part.chunk for part in stub.ExportAdaptedModel(export, timeout=30))
        again = stub.Predict(wanted, timeout=30)
    with start_server(store=tmp_path / "s") as server:
        gone = refusal(lambda: server.stub.Predict(wanted, timeout=30))
        left = server.stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=30)
        anew = server.stub.Adapt(request, timeout=30)

    assert model.options.durability == wire.DURABILITY_MEMORY
    assert (repeated.adapted_model, repeated.deduplicated) == (model, True)
    assert again.probabilities == answer.probabilities
    assert renewed.options == inherited.options == model.options
    assert kept.options.durability == wire.DURABILITY_DISK
    assert list(listed.adapted_models) == [renewed, inherited, kept]
    assert exported
    assert (gone.code, gone.reason) == ("NOT_FOUND", "ADAPTED_MODEL_NOT_FOUND")
    assert list(left.adapted_models) == [kept]
    assert not anew.deduplicated


def test_a_full_store_says_so(
    start_server: StartServer, adapt_request: Make, refusal: Refuse
) -> None:
    with start_server(max_adapted_models=1) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        full = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=30))
        server.stub.DeleteAdaptedModel(
            wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30
        )
        again = server.stub.Adapt(adapt_request(), timeout=30)

    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    assert again.adapted_model.id


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    refusal: Refuse,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("kshot.server.store.files.StoreFiles.create", fail)
        full = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=30))
    again = server.stub.Adapt(adapt_request(), timeout=30)

    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    assert "its disk has no room" in full.details["QuotaFailure"].violations[0].description
    assert "store_failed" in caplog.messages
    assert again.adapted_model.id


def test_a_full_disk_lets_models_go(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    refusal: Refuse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deleting frees room, so it must not need any."""

    def fail(*_arguments: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    request = wire.DeleteAdaptedModelRequest(adapted_model=model)
    with monkeypatch.context() as patched:
        patched.setattr("kshot.server.store.tables.index.StoreIndex.bury", fail)
        server.stub.DeleteAdaptedModel(request, timeout=30)
        gone = refusal(lambda: server.stub.DeleteAdaptedModel(request, timeout=30))

    assert gone.reason == "ADAPTED_MODEL_DELETED"


def test_the_log_has_no_ids(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who knows an id can use the model."""
    with caplog.at_level(logging.INFO):
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        request = wire.PredictRequest(adapted_model=model, queries=queries())
        server.stub.Predict(request, timeout=30)
        server.stub.DeleteAdaptedModel(
            wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30
        )
    lines = [str(vars(record)) for record in caplog.records if record.message == "request"]

    assert len(lines) == 3
    assert all(model[:11] in line and model not in line for line in lines)


def test_a_disk_that_fails_says_so(
    start_server: StartServer,
    adapt_request: Make,
    refusal: Refuse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "secret", "/secret/place")

    with start_server(cache_bytes=0) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        calls = {
            "StoreFiles.create": lambda: server.stub.Adapt(adapt_request(), timeout=30),
            "StoreFiles.read": lambda: server.stub.Predict(
                wire.PredictRequest(adapted_model=model), timeout=30
            ),
            "StoreIndex.row": lambda: server.stub.GetAdaptedModel(
                wire.GetAdaptedModelRequest(adapted_model=model), timeout=30
            ),
            "StoreIndex.page": lambda: server.stub.ListAdaptedModels(
                wire.ListAdaptedModelsRequest(), timeout=30
            ),
            "StoreFiles.remove": lambda: server.stub.DeleteAdaptedModel(
                wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30
            ),
        }
        for place, call in calls.items():
            module = "tables.index" if "Index" in place else "files"
            with monkeypatch.context() as patched:
                patched.setattr(f"kshot.server.store.{module}.{place}", fail)
                failed = refusal(call)

            assert (failed.code, failed.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE"), place
            assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
            assert "secret" not in failed.text


def test_an_id_that_is_taken_says_nothing_of_it(
    start_server: StartServer,
    adapt_request: Make,
    refusal: Refuse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New ids are random: this does not happen, and nobody is to learn of another's model."""
    monkeypatch.setattr("kshot.server.store.kept_models.new_id", lambda: "am-" + "a" * 26)
    with start_server() as server:
        server.stub.Adapt(adapt_request(), timeout=30)
        taken = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=30))

    assert (taken.code, taken.reason) == ("INTERNAL", "INTERNAL")
    assert "aaa" not in taken.text


def test_an_expired_model_says_so(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
    refusal: Refuse,
) -> None:
    request = adapt_request()
    request.options.ttl.FromNanoseconds(1000)
    model = server.stub.Adapt(request, timeout=30).adapted_model.id
    error = refusal(
        lambda: server.stub.Predict(
            wire.PredictRequest(adapted_model=model, queries=queries()), timeout=30
        )
    )

    assert (error.code, error.reason) == ("NOT_FOUND", "ADAPTED_MODEL_EXPIRED")


def test_a_damaged_file_says_so(
    start_server: StartServer, adapt_request: Make, queries: Make, tmp_path: Path, refusal: Refuse
) -> None:
    with start_server(store=tmp_path / "s", cache_bytes=0) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        other = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        (file,) = (tmp_path / "s").rglob(f"{model}*")
        os.truncate(file, 10)
        damaged = wire.PredictRequest(adapted_model=model, queries=queries())
        sound = wire.PredictRequest(adapted_model=other, queries=queries())

        error = refusal(lambda: server.stub.Predict(damaged, timeout=30))

        assert (error.code, error.reason) == ("DATA_LOSS", "ADAPTED_MODEL_DAMAGED")
        assert str(tmp_path) not in error.text
        assert server.stub.Predict(sound, timeout=30).predictions
