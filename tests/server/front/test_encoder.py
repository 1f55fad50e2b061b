"""A bundle with an encoder answers as its network does on images that were encoded before."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from kshot.bundle import Bundle
from kshot.server.predict import encodings
from kshot.server.predict.predictor import Predictor
from kshot.server.workers import Workers
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]
StartServer = Callable[..., AbstractContextManager[Any]]
WAY, SHOT = 3, 4
DIE = 900  # the seed that ends the fake engine


@pytest.fixture(scope="module")
def encoding(
    make_config: Make,
    tiny_bundle: Bundle,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[AdaptationServiceStub]:
    """A server of the same network with and without an encoder, which runs 4 images at a time."""
    config = make_config(bundles=(tiny_bundle.path, encoder_bundle.path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "MAX_CPU_IMAGES", 4)
        with run_in_thread(config) as server:
            yield server.stub


def images(count: int, seed: int) -> Numbers:
    return np.random.default_rng(seed).random((count, 1, 8, 8), np.float32)


def encoded(given: Numbers) -> Numbers:
    pooled: Numbers = given.reshape(len(given), 1, 4, 2, 4, 2).mean(axis=(3, 5))
    return pooled


def sent(array: Numbers) -> wire.Images:
    tensor = wire.Tensor(datatype="FP32", shape=array.shape, data=array.tobytes())
    return wire.Images(tensor=tensor)


def support(model: str, seed: int = 0) -> wire.AdaptRequest:
    """Ask for the same adaptation of either model."""
    given = images(WAY * SHOT, seed)
    return wire.AdaptRequest(
        model=model,
        support_set=wire.SupportSet(
            images=sent(given if model == "encoded" else encoded(given)),
            class_indices=[index for index in range(WAY) for _ in range(SHOT)],
            class_names=[f"class {index}" for index in range(WAY)],
        ),
    )


def numbers(tensor: wire.Tensor) -> Numbers:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


@pytest.mark.parametrize(("kind", "jobs"), [("JPEG", 1), ("PNG", 2)])
def test_a_head_answers_in_the_job_of_its_encoder(
    encoding: AdaptationServiceStub, monkeypatch: pytest.MonkeyPatch, kind: str, jobs: int
) -> None:
    """Threads take up work slower than a head does it. A PNG may take long to open."""
    stream = io.BytesIO()
    Image.fromarray((255 * images(1, seed=3)[0, 0]).astype(np.uint8)).save(stream, kind)
    adapted = encoding.Adapt(support("encoded"), timeout=60).adapted_model
    queries = wire.Images(encoded=wire.EncodedImages(items=[stream.getvalue()]))
    request = wire.PredictRequest(adapted_model=adapted.id, queries=queries)
    apart = encoding.Predict(request, timeout=60)
    begun, keep = [], Workers._keep
    monkeypatch.setattr(Predictor, "head_alone", lambda *_: True)
    monkeypatch.setattr(Workers, "_keep", lambda *given: (begun.append(1), keep(*given))[1])

    together = encoding.Predict(request, timeout=60)

    assert len(begun) == jobs
    np.testing.assert_array_equal(numbers(together.probabilities), numbers(apart.probabilities))


@pytest.mark.parametrize("mode", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_queries_are_encoded(
    encoding: AdaptationServiceStub, mode: wire.BatchNormMode.ValueType, count: int
) -> None:
    """Small requests and large ones, in every mode, of one adapted model and without keeping it."""
    given, answers = images(count, seed=7), []
    for model, queries in (("tiny", encoded(given)), ("encoded", given)):
        adapted = encoding.Adapt(support(model), timeout=60).adapted_model
        request = wire.PredictRequest(
            adapted_model=adapted.id, queries=sent(queries), batch_norm_mode=mode
        )
        answers.append(numbers(encoding.Predict(request, timeout=60).probabilities))
        once = wire.AdaptAndPredictRequest(
            model=model,
            support_set=support(model).support_set,
            queries=sent(queries),
            options=wire.AdaptOptions(batch_norm_mode=mode),
        )
        answers.append(numbers(encoding.AdaptAndPredict(once, timeout=60).probabilities))

    assert answers[0].shape == (count, WAY)
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5, rtol=0)


def test_callers_of_different_models_share_runs(encoding: AdaptationServiceStub) -> None:
    """Each gets what it would get alone."""
    adapted = [encoding.Adapt(support("encoded", seed)).adapted_model.id for seed in range(4)]
    plain = [encoding.Adapt(support("tiny", seed)).adapted_model.id for seed in range(4)]

    def call(turn: int) -> tuple[Numbers, Numbers]:
        given = images(1 + turn % 6, seed=turn)
        answers = [
            encoding.Predict(
                wire.PredictRequest(adapted_model=models[turn % 4], queries=sent(queries)),
                timeout=60,
            )
            for models, queries in ((adapted, given), (plain, encoded(given)))
        ]
        got, wanted = (numbers(answer.probabilities) for answer in answers)
        return got, wanted

    with ThreadPoolExecutor(12) as pool:
        for got, wanted in pool.map(call, range(120)):
            np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)


def test_pictures_of_any_size_are_prepared_before(encoding: AdaptationServiceStub) -> None:
    """As uint8 arrays; the digest of an adaptation is that of the prepared images."""
    pictures = np.random.default_rng(1).integers(0, 256, (WAY * SHOT, 8, 8), dtype=np.uint8)
    twice = pictures.repeat(2, axis=1).repeat(2, axis=2)
    digests = set()
    for array in (pictures, twice):
        request = support("encoded")
        tensor = wire.Tensor(datatype="UINT8", shape=array.shape, data=array.tobytes())
        request.support_set.images.CopyFrom(wire.Images(tensor=tensor))
        digests.add(encoding.Adapt(request, timeout=60).adapted_model.adaptation_digest)

    assert len(digests) == 1


def test_a_revision_has_the_images_before_the_encoder(encoding: AdaptationServiceStub) -> None:
    """As pixels or as other numbers: both come back bit for bit."""
    pictures = np.random.default_rng(1).integers(0, 256, (WAY * SHOT, 8, 8), dtype=np.uint8)
    tensor = wire.Tensor(datatype="UINT8", shape=pictures.shape, data=pictures.tobytes())
    for given in (wire.Images(tensor=tensor), sent(images(WAY * SHOT, 2))):
        request = support("encoded")
        request.support_set.images.CopyFrom(given)
        old = encoding.Adapt(request, timeout=60).adapted_model
        if given.tensor.datatype == "UINT8":
            prepared = (np.arange(256) / 255).astype(np.float32)[pictures][:, None]
        else:
            prepared = numbers(given.tensor)
        request.support_set.images.CopyFrom(sent(prepared[1:]))
        del request.support_set.class_indices[0]

        revised = encoding.ReviseAdaptedModel(
            wire.ReviseAdaptedModelRequest(adapted_model=old.id, removed_indices=[0]), timeout=60
        ).adapted_model

        assert revised.adaptation_digest != old.adaptation_digest
        wanted = encoding.Adapt(request, timeout=60).adapted_model
        assert revised.adaptation_digest == wanted.adaptation_digest
        assert revised.weights_digest == wanted.weights_digest


def test_an_export_holds_the_encoder(encoding: AdaptationServiceStub) -> None:
    adapted = encoding.Adapt(support("encoded"), timeout=60).adapted_model
    given = images(5, seed=3)
    for mode in (1, 2, 3):
        request = wire.ExportAdaptedModelRequest(adapted_model=adapted.id, batch_norm_mode=mode)
        _, *chunks = encoding.ExportAdaptedModel(request, timeout=60)
        content = b"".join(message.chunk for message in chunks)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"inputs": given})

        answered = encoding.Predict(
            wire.PredictRequest(
                adapted_model=adapted.id,
                queries=sent(given),
                batch_norm_mode=mode,
                return_logits=True,
            ),
            timeout=60,
        )

        (inputs,) = session.get_inputs()
        assert (inputs.name, inputs.shape) == ("inputs", ["query_count", 1, 8, 8])
        np.testing.assert_allclose(logits, numbers(answered.logits), atol=1e-5, rtol=0)


def test_capabilities_name_the_encoder(
    encoding: AdaptationServiceStub, encoder_bundle: Bundle
) -> None:
    models = encoding.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).models
    plain, behind = (
        next(model for model in models if model.model == name) for name in ("tiny", "encoded")
    )

    assert (plain.encoder_digest, list(plain.encoded_shape)) == ("", [])
    assert behind.encoder_digest == encoder_bundle.encoder_digest
    assert list(behind.encoded_shape) == [1, 4, 4]
    assert list(behind.input_shape) == [1, 8, 8]


def test_images_of_the_networks_own_shape_are_refused(
    encoding: AdaptationServiceStub, refusal: Make
) -> None:
    """What an encoder would make is no prepared image."""
    request = support("encoded")
    request.support_set.images.CopyFrom(sent(encoded(images(WAY * SHOT, 0))))

    refused = refusal(lambda: encoding.Adapt(request, timeout=60))

    assert refused.violations == {
        "support_set.images.tensor": "expected float32 shape (n, 1, 8, 8), got (12, 1, 4, 4)"
    }


def test_a_restarted_server_answers_as_before(
    make_config: Make,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> None:
    """The store keeps what lies behind the encoder, and the images to adapt to again."""
    config = make_config(bundles=(encoder_bundle.path,))
    answers = []
    for turn in range(2):
        with run_in_thread(config) as server:
            if turn == 0:
                adapted = server.stub.Adapt(support("encoded"), timeout=60).adapted_model
            for mode in (1, 2, 3):
                request = wire.PredictRequest(
                    adapted_model=adapted.id, queries=sent(images(3, 5)), batch_norm_mode=mode
                )
                answers.append(numbers(server.stub.Predict(request, timeout=60).probabilities))

    for before, after in zip(answers[:3], answers[3:], strict=True):
        np.testing.assert_array_equal(before, after)
    # Half the sides of the images: a quarter of their bytes.
    assert adapted.size_bytes > 4 * WAY * SHOT * (16 + 64)


def test_an_engine_that_dies_takes_one_adaptation(
    make_config: Make,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
    wait_arrival: Callable[[], str],
) -> None:
    """Kept models answer meanwhile: the front encodes and predicts without the engine."""
    with run_in_thread(make_config(bundles=(encoder_bundle.path,))) as server:
        adapted = server.stub.Adapt(support("encoded"), timeout=60).adapted_model
        request = wire.PredictRequest(adapted_model=adapted.id, queries=sent(images(3, 5)))
        before = numbers(server.stub.Predict(request, timeout=60).probabilities)
        dying = support("encoded")
        dying.options.seed = DIE

        lost = server.stub.Adapt.future(dying, timeout=60)
        wait_arrival()

        assert lost.exception().code() is grpc.StatusCode.UNAVAILABLE
        after = numbers(server.stub.Predict(request, timeout=60).probabilities)
        np.testing.assert_array_equal(after, before)
