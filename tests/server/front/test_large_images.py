"""Large images of one caller hold nobody else, and no longer than their calls last."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, Levels
from kshot.server.call_context import current_call
from kshot.server.request.decoders import DecoderProcess
from kshot.server.request.fitted_file import FileJob, FittedFile, fit_file
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
FLOOD = 24


def large() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.eye(2048, dtype=np.uint8) * 255).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


LARGE = large()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let large images take until this is set, or until their calls end."""
    held = threading.Event()

    def fit(_: DecoderProcess, job: FileJob) -> FittedFile:
        while not held.wait(0.01):
            current_call().check()
        return fit_file(job, Levels())

    monkeypatch.setattr(DecoderProcess, "fit", fit)
    yield held
    held.set()


@pytest.fixture
def other(server: Any) -> Iterator[AdaptationServiceStub]:  # noqa: ANN401 -- a running server
    """Calls of another connection to the shared server."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options) as channel:
        yield AdaptationServiceStub(channel)


def images(count: int = 2) -> wire.Images:
    return wire.Images(encoded=wire.EncodedImages(items=[LARGE] * count))


def test_others_go_on_beside_large_images(
    server: Any,  # noqa: ANN401 -- a running server
    other: AdaptationServiceStub,
    hold: threading.Event,
    adapt_request: Make,
    queries: Make,
) -> None:
    """However many calls have them: threads that wait for a process leave their places."""
    model = server.stub.Adapt(adapt_request(), timeout=60).adapted_model.id
    predict = wire.PredictRequest(adapted_model=model, queries=images())
    adapt = adapt_request(way=2, shot=1)
    adapt.support_set.images.CopyFrom(images())
    waiting = [server.stub.Predict.future(predict, timeout=600) for _ in range(FLOOD)]
    waiting += [server.stub.Adapt.future(adapt, timeout=600) for _ in range(FLOOD)]

    for _ in range(5):
        small = wire.PredictRequest(adapted_model=model, queries=queries(1))
        assert len(other.Predict(small, timeout=60).predictions) == 1
        other.Adapt(adapt_request(), timeout=60)
    png = io.BytesIO()
    Image.new("L", (4, 4), 9).save(png, "PNG")
    small.queries.encoded.items.append(png.getvalue())
    assert len(other.Predict(small, timeout=60).predictions) == 1

    assert not any(call.done() for call in waiting)
    for call in waiting[1:-1]:
        call.cancel()
    hold.set()
    assert len(waiting[0].result().predictions) == 2
    assert waiting[-1].result().adapted_model.id


def test_a_deadline_ends_the_wait_for_a_large_image(
    server: Any,  # noqa: ANN401 -- a running server
    hold: threading.Event,
    adapt_request: Make,
) -> None:
    model = server.stub.Adapt(adapt_request(), timeout=60).adapted_model.id
    predict = wire.PredictRequest(adapted_model=model, queries=images())

    for _ in range(5):  # more than there are processes
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Predict(predict, timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    hold.set()
    assert len(server.stub.Predict(predict, timeout=60).predictions) == 2


def test_what_is_wrong_with_a_large_image_names_it(
    server: Any,  # noqa: ANN401 -- a running server
    monkeypatch: pytest.MonkeyPatch,
    adapt_request: Make,
    refusal: Make,
) -> None:
    def fit(_: DecoderProcess, __: FileJob) -> FittedFile:
        raise ImageError.about("takes too long to decode")

    monkeypatch.setattr(DecoderProcess, "fit", fit)
    adapt = adapt_request(way=2, shot=1)
    adapt.support_set.images.CopyFrom(images())

    violations = refusal(lambda: server.stub.Adapt(adapt, timeout=60)).violations

    assert violations == {
        f"support_set.images.encoded.items[{index}]": "takes too long to decode"
        for index in range(2)
    }
