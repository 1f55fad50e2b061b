"""A tail adapts behind the head where time allows it, and answers together with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf.duration_pb2 import Duration

from kshot.bundle import Bundle
from kshot.oip.v2 import grpc_service_pb2 as oip
from kshot.oip.v2.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]
WAY, SHOT = 3, 4
PARTIAL = 904  # the seed whose time is over in the fake engine
TAIL_WEIGHT = 0.75


@pytest.fixture(scope="module")
def channel(make_config: Make, tail_bundle: Bundle, run_in_thread: Make) -> Iterator[grpc.Channel]:
    with run_in_thread(make_config(bundles=(tail_bundle.path,))) as server:
        yield server.channel


@pytest.fixture(scope="module")
def tailed(channel: grpc.Channel) -> AdaptationServiceStub:
    return AdaptationServiceStub(channel)


def pictures(count: int, seed: int = 0) -> wire.Images:
    array = np.random.default_rng(seed).uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)
    return wire.Images(tensor=wire.Tensor(datatype="FP32", shape=array.shape, data=array.tobytes()))


def support(shot: int = SHOT) -> wire.SupportSet:
    return wire.SupportSet(
        images=pictures(WAY * shot),
        class_indices=[index for index in range(WAY) for _ in range(shot)],
        class_names=[f"class {index}" for index in range(WAY)],
    )


def adapt(
    stub: AdaptationServiceStub,
    shot: int = SHOT,
    *,
    budget: float | None = None,
    model: str = "tailed",
    timeout: float = 60,
    **options: Any,  # noqa: ANN401 -- those of the wire
) -> wire.AdaptResponse:
    if budget is not None:
        options["time_budget"] = Duration()
        options["time_budget"].FromNanoseconds(round(1e9 * budget))
    request = wire.AdaptRequest(
        model=model, support_set=support(shot), options=wire.AdaptOptions(**options)
    )
    return stub.Adapt(request, timeout=timeout)


def ask(stub: AdaptationServiceStub, adapted: wire.AdaptedModel, count: int = 5) -> Numbers:
    request = wire.PredictRequest(
        adapted_model=adapted.id, queries=pictures(count, seed=7), return_logits=True
    )
    return numbers(stub.Predict(request, timeout=60).logits)


def numbers(tensor: wire.Tensor) -> Numbers:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def test_a_tail_adapts_by_default(tailed: AdaptationServiceStub) -> None:
    adapted = adapt(tailed)
    tail = adapted.report.tail

    assert (tail.weight, tail.step_count, tail.fold_step_count) == (TAIL_WEIGHT, 20, 12)
    assert tail.needed_time.ToNanoseconds() == 0  # all steps were taken
    assert adapted.adapted_model.options.scope == wire.SCOPE_AUTO
    assert adapted.report.estimate.example_count == WAY * SHOT
    assert adapted.report.stop_reason == wire.STOP_REASON_COMPLETED
    assert not any("time_budget" in warning for warning in adapted.report.warnings)


def test_with_one_example_there_are_no_folds(tailed: AdaptationServiceStub) -> None:
    tail = adapt(tailed, shot=1).report.tail

    assert (tail.step_count, tail.fold_step_count) == (20, 0)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_answers_are_those_of_head_and_tail(tailed: AdaptationServiceStub, count: int) -> None:
    """The exported file has encoder, head and tail in one."""
    adapted = adapt(tailed).adapted_model
    export = tailed.ExportAdaptedModel(
        wire.ExportAdaptedModelRequest(adapted_model=adapted.id), timeout=60
    )
    content = b"".join(part.chunk for part in export)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    queries = numbers(pictures(count, seed=7).tensor)
    (wanted,) = session.run(["logits"], {"inputs": queries})

    assert [value.name for value in session.get_outputs()] == ["logits"]
    np.testing.assert_allclose(ask(tailed, adapted, count), wanted, atol=1e-5)
    assert (
        np.abs(
            wanted - ask(tailed, adapt(tailed, scope=wire.SCOPE_HEAD).adapted_model, count)
        ).max()
        > 0.1
    )


def test_answers_stay_after_a_restart(
    make_config: Make, tail_bundle: Bundle, run_in_thread: Make
) -> None:
    config = make_config(bundles=(tail_bundle.path,))
    with run_in_thread(config) as server:
        adapted = adapt(server.stub).adapted_model
        before = ask(server.stub, adapted)
    with run_in_thread(config) as server:
        np.testing.assert_array_equal(ask(server.stub, adapted), before)


def test_once_is_as_adapted_and_asked(tailed: AdaptationServiceStub) -> None:
    request = wire.AdaptAndPredictRequest(
        model="tailed", support_set=support(), queries=pictures(5, seed=7), return_logits=True
    )
    once = tailed.AdaptAndPredict(request, timeout=60)

    assert once.report.tail.weight == TAIL_WEIGHT
    kept = ask(tailed, adapt(tailed).adapted_model)
    np.testing.assert_allclose(numbers(once.logits), kept, atol=1e-6)


def test_the_plan_decides_the_digest(tailed: AdaptationServiceStub) -> None:
    """The time budget itself does not, and no plan leaves the digest of the head."""
    digests = [
        adapt(tailed, **options).adapted_model.adaptation_digest
        for options in ({}, {"budget": 600}, {"budget": 1e-9}, {"budget": 1e-8}, {"seed": 1})
    ]

    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert len(set(digests)) == 3


def test_a_short_budget_leaves_the_head(tailed: AdaptationServiceStub) -> None:
    adapted, head = adapt(tailed, budget=1e-6), adapt(tailed, scope=wire.SCOPE_HEAD)
    tail = adapted.report.tail

    assert (tail.weight, tail.step_count, tail.fold_step_count) == (0, 0, 0)
    assert tail.needed_time.ToNanoseconds() > 0
    (warning,) = [each for each in adapted.report.warnings if "time_budget" in each]
    assert "too short" in warning and "the head alone adapted; all steps need 0." in warning
    assert not head.report.HasField("tail")
    np.testing.assert_array_equal(
        ask(tailed, adapted.adapted_model), ask(tailed, head.adapted_model)
    )


@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_deadline_that_comes_leaves_the_head(
    tailed: AdaptationServiceStub, allow_partial: bool
) -> None:
    """A call is not lost because its tail took longer than planned."""
    adapted = adapt(tailed, seed=PARTIAL, allow_partial=allow_partial)
    reason = wire.STOP_REASON_TIME_BUDGET if allow_partial else wire.STOP_REASON_COMPLETED

    assert (adapted.report.tail.weight, adapted.report.tail.step_count) == (0, 0)
    assert adapted.report.stop_reason == reason
    assert any("the deadline came before" in each for each in adapted.report.warnings)
    assert adapted.adapted_model.options.allow_partial is allow_partial
    head = adapt(tailed, budget=1e-9, seed=PARTIAL + 100).adapted_model
    np.testing.assert_array_equal(ask(tailed, adapted.adapted_model), ask(tailed, head))


@pytest.mark.parametrize("options", [{"scope": wire.SCOPE_HEAD}, {"head": wire.HEAD_PROTOTYPE}])
def test_other_options_leave_the_tail_alone(
    tailed: AdaptationServiceStub, options: dict[str, Any]
) -> None:
    assert not adapt(tailed, **options).report.HasField("tail")


def test_the_chosen_models_tail_adapts(
    make_config: Make, tail_bundle: Bundle, means_bundle: Bundle, run_in_thread: Make
) -> None:
    """Models are compared by their heads; only the tail of the one that is chosen takes time."""
    with run_in_thread(make_config(bundles=(tail_bundle.path, means_bundle.path))) as server:
        adapted = adapt(server.stub, model="")
        names = [candidate.model for candidate in adapted.report.chosen_from]

        assert names == ["tailed", "means"]
        assert adapted.adapted_model.model == "tailed"
        assert adapted.report.tail.weight == TAIL_WEIGHT
        short = adapt(server.stub, model="", budget=1e-6)
        assert short.report.tail.step_count == 0
        assert any("time_budget" in warning for warning in short.report.warnings)
        assert not np.array_equal(
            ask(server.stub, adapted.adapted_model), ask(server.stub, short.adapted_model)
        )


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"scope": wire.SCOPE_HEAD}, True),
        ({"head": wire.HEAD_PROTOTYPE}, True),
        ({"step_count": 1}, True),
        ({"model": "", "scope": wire.SCOPE_HEAD}, False),  # other models might have used it
        ({}, False),
    ],
)
def test_a_budget_for_no_tail_is_noticed(
    tailed: AdaptationServiceStub, options: dict[str, Any], idle: bool
) -> None:
    warnings = adapt(tailed, budget=5, **options).report.warnings

    assert any("has no effect" in warning for warning in warnings) is idle


def test_an_embedding_has_no_maps(channel: grpc.Channel) -> None:
    """The encoder gives the tail's maps behind the features: means of four cells, here."""
    sent = pictures(5).tensor
    request = oip.ModelInferRequest(model_name="tailed", raw_input_contents=[sent.data])
    request.inputs.add(name="images", datatype="FP32", shape=sent.shape)

    response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)

    means = numbers(sent).reshape(5, 3, 2, 4, 2, 4).mean(axis=(3, 5)).reshape(5, 12)
    (output,) = response.outputs
    embedding = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(output.shape)
    np.testing.assert_allclose(embedding, means, atol=1e-5)
