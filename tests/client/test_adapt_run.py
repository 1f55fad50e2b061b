"""Adaptations that tell how far they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.rpc.code_pb2 import Code

from kshot.client import AdaptProgress, CancelledError, Client, InputError, UnavailableError

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.zeros((2, 6, 5), np.uint8)


def test_progress_comes_before_the_result(client: Client) -> None:
    with client.adapt_stream(IMAGES, [3, 4], model="omniglot") as run:
        progress = list(run)
        adapted = run.result()

    assert progress == [
        AdaptProgress("omniglot", "adapting", 1, 2, (1.0,)),
        AdaptProgress("omniglot", "adapting", 2, 2, (0.5,)),
    ]
    assert adapted.labels == (3, 4)
    assert adapted.report is not None
    assert adapted.timing is not None
    assert adapted.predict(IMAGES).labels.tolist() == [3, 4]


def test_the_result_waits(client: Client) -> None:
    run = client.adapt_stream(IMAGES, [3, 4])

    assert run.result() is run.result()


def test_leaving_the_block_cancels(client: Client, servicer: FakeServicer) -> None:
    servicer.stalled = True
    with client.adapt_stream(IMAGES, [3, 4]) as run:
        assert next(iter(run)).step_count == 1

    assert servicer.left.wait(60)
    with pytest.raises(CancelledError, match="cancelled before it was done"):
        run.result()
    assert servicer.kept == {}


def test_failures_are_those_of_adapt(client: Client, servicer: FakeServicer) -> None:
    servicer.refuse(Code.UNAVAILABLE, "not now")

    with pytest.raises(UnavailableError):
        client.adapt_stream(IMAGES, [3, 4]).result()
    with pytest.raises(InputError, match="labels: expected one for each of 2 images, got 1"):
        client.adapt_stream(IMAGES, [3])
