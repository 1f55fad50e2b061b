"""Adapted models end with their handles, and no other model does."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.code_pb2 import Code

from kshot.client import Client, InputError, KshotError
from kshot.client.adapted_model import AdaptedModel
from kshot.client.estimator.own_model import OwnModel
from kshot.v1 import adaptation_pb2 as wire
from tests.client.conftest import FakeServicer

PROGRAM = Path(__file__).with_name("ending.py")
IMAGES = np.zeros((2, 6, 5), np.uint8)


@dataclass
class Deleting(FakeServicer):
    """Tells when it has deleted a model."""

    deleted: threading.Event = field(default_factory=threading.Event)

    def DeleteAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.DeleteAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.DeleteAdaptedModelResponse:
        response = super().DeleteAdaptedModel(request, context)
        self.deleted.set()
        return response


@pytest.fixture
def servicer() -> FakeServicer:
    return Deleting()


def adapt(client: Client) -> AdaptedModel:
    return client.adapt(IMAGES, [0, 1])


def make(address: str) -> OwnModel:
    return OwnModel(address, 10, adapt)


def test_a_model_ends_with_its_last_handle(address: str, servicer: Deleting) -> None:
    own = make(address)
    handle = own.handle
    del own
    gc.collect()
    assert handle.predict(IMAGES).labels.tolist() == [0, 1]

    del handle
    gc.collect()
    assert servicer.deleted.wait(60)
    assert servicer.kept == {}


def test_a_discarded_model_is_deleted_once(address: str, servicer: Deleting) -> None:
    own, other = make(address), make(address)
    own.discard()
    own.discard()

    assert list(servicer.kept) == [other.handle.id]
    other.discard()
    with pytest.raises(InputError, match="this client is closed"):
        other.handle.predict(IMAGES)


def test_a_model_that_the_server_does_not_delete_is_let_go(
    address: str, servicer: Deleting
) -> None:
    own = make(address)
    servicer.refuse(Code.PERMISSION_DENIED, "not yours")

    own.discard()
    assert own.handle.id in servicer.kept


def test_an_interrupted_delete_lets_the_client_go(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_client: Client, _model: str) -> None:
        raise KeyboardInterrupt

    own = make(address)
    monkeypatch.setattr(Client, "delete", interrupt)

    with pytest.raises(KeyboardInterrupt):
        own.discard()
    with pytest.raises(InputError, match="this client is closed"):
        own.handle.predict(IMAGES)


def test_a_failed_adaptation_lets_the_client_go(address: str, servicer: Deleting) -> None:
    seen: list[Client] = []
    servicer.refuse(Code.INVALID_ARGUMENT, "no", times=1)

    def fail(client: Client) -> AdaptedModel:
        seen.append(client)
        return adapt(client)

    with pytest.raises(KshotError):
        OwnModel(address, 10, fail)
    with pytest.raises(InputError, match="this client is closed"):
        adapt(seen[0])


def test_models_end_with_their_process_and_not_with_its_children(
    address: str, servicer: Deleting
) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, address], stdout=subprocess.PIPE, text=True, check=True
    )

    before, of_child, after = done.stdout.split()
    assert before == after != of_child
    assert servicer.kept == {}
