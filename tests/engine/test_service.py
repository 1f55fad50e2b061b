import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from kshot.bundle import Bundle
from kshot.engine.models import LoadedModel
from kshot.engine.task import EngineTask
from kshot.engine.wire import decode_task
from kshot.internal.v1 import engine_pb2, engine_pb2_grpc
from tests.patience import with_more_time

ENDLESS = 20_000  # takes much longer than any deadline here
Stub = engine_pb2_grpc.EngineServiceStub
Adapt = Callable[[LoadedModel, EngineTask], Any]


def _arrays(tensors: Iterable[engine_pb2.NamedTensor]) -> dict[str, np.ndarray]:
    return {t.name: np.frombuffer(t.data, "<f4").reshape(tuple(t.shape)) for t in tensors}


def test_it_describes_itself(engine: Stub, bundle: Bundle) -> None:
    answer = engine.DescribeEngine(engine_pb2.DescribeEngineRequest(), timeout=60)

    assert answer.device == "cpu"
    assert answer.torch_version == torch.__version__
    assert [(m.model, m.bundle_digest) for m in answer.models] == [("small", bundle.digest)]
    assert answer.compute_path.startswith("eager/float32/cpu/")
    assert answer.slot_count >= 1
    assert answer.busy_slot_count == 0
    assert answer.models[0].tail_example_seconds == 0


@pytest.mark.parametrize("preconditioner", ["carried", "frozen", "fresh", "sgd"])
@pytest.mark.parametrize("head", ["trained", "prototype", "zero"])
@pytest.mark.parametrize("scope", ["all", "head"])
def test_an_adaptation_is_the_learners(
    engine: Stub,
    model: LoadedModel,
    reference: Adapt,
    request_message: engine_pb2.AdaptRequest,
    preconditioner: str,
    head: str,
    scope: str,
) -> None:
    """The head is padded from 3 rows to the bucket's 5, which may move the last digits."""
    request_message.preconditioner = preconditioner
    request_message.head = head
    request_message.scope = scope

    answer = engine.Adapt(request_message, timeout=60)

    wanted = reference(model, decode_task(request_message))
    assert answer.stop_reason == engine_pb2.STOP_REASON_COMPLETED
    assert answer.step_count == len(answer.support_loss) == 10
    assert answer.slot_bucket in (1, 2)
    assert answer.support_loss == pytest.approx(wanted.support_losses, rel=1e-4)
    assert answer.support_accuracy == pytest.approx(wanted.support_accuracy)
    for got, expected in (
        (_arrays(answer.parameters), wanted.parameters),
        (_arrays(answer.statistics), wanted.statistics),
    ):
        assert list(got) == sorted(expected)
        for name, array in got.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_progress_tells_every_loss_before_the_result(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.step_count, request_message.deterministic = 100, True
    asked = engine_pb2.AdaptWithProgressRequest(task=request_message)
    asked.interval.FromMilliseconds(10)
    wanted = engine.Adapt(request_message, timeout=60)

    *progress, last = engine.AdaptWithProgress(asked, timeout=60)

    assert last.result.parameters == wanted.parameters
    assert last.result.support_loss == wanted.support_loss
    losses = [loss for each in progress for loss in each.progress.support_loss]
    assert losses == list(wanted.support_loss)[: len(losses)]
    assert progress and all(each.progress.support_loss for each in progress)


def test_progress_comes_while_the_loop_runs(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.step_count = ENDLESS
    asked = engine_pb2.AdaptWithProgressRequest(task=request_message)
    asked.interval.FromMilliseconds(10)

    call = engine.AdaptWithProgress(asked, timeout=300)

    assert all(next(call).progress.support_loss for _ in range(3))
    call.cancel()


@pytest.mark.compiled
def test_what_is_compiled_is_the_learners_too(
    compiled_engine: Stub,
    perceptron: LoadedModel,
    reference: Adapt,
    request_message: engine_pb2.AdaptRequest,
) -> None:
    request_message.bundle_digest = perceptron.bundle.digest
    request_message.step_count = 50

    answer = compiled_engine.Adapt(request_message, timeout=60)

    described = compiled_engine.DescribeEngine(engine_pb2.DescribeEngineRequest(), timeout=60)
    assert answer.compute_path == described.compute_path
    assert answer.compute_path.startswith("compiled/float32/cpu/")
    wanted = reference(perceptron, decode_task(request_message))
    for name, array in _arrays(answer.parameters).items():
        np.testing.assert_allclose(array, wanted.parameters[name], rtol=0, atol=1e-3)


@pytest.mark.compiled
def test_another_kind_of_step_is_compiled_while_the_plain_one_serves(
    compiled_engine: Stub, perceptron: LoadedModel, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.bundle_digest = perceptron.bundle.digest
    request_message.batch_size = 7

    answers = [compiled_engine.Adapt(request_message, timeout=60)]
    while not answers[-1].compute_path.startswith("compiled/"):  # pytest's time limit ends this
        threading.Event().wait(0.2)  # leaves the processor to the compiler
        answers.append(compiled_engine.Adapt(request_message, timeout=60))

    first, last = _arrays(answers[0].parameters), _arrays(answers[-1].parameters)
    for name, array in first.items():
        np.testing.assert_allclose(array, last[name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_adaptations_beside_each_other_are_as_if_alone(
    engine: Stub, request_message: engine_pb2.AdaptRequest, deterministic: bool
) -> None:
    requests = []
    for seed in range(6):
        request = engine_pb2.AdaptRequest()
        request.CopyFrom(request_message)
        request.seed, request.step_count = seed, 5 + 3 * seed
        request.preconditioner = ["carried", "fresh", "sgd"][seed % 3]
        request.deterministic = deterministic
        requests.append(request)
    alone = [engine.Adapt(request, timeout=60) for request in requests]

    together = [engine.Adapt.future(request, timeout=60) for request in requests]

    for one, call in zip(alone, together, strict=True):
        for name, array in _arrays(call.result().parameters).items():
            expected = _arrays(one.parameters)[name]
            if deterministic:
                np.testing.assert_array_equal(array, expected)
                assert call.result().slot_bucket == 1
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-4)


def test_it_tells_how_long_a_step_of_a_tail_takes(tail_engine: Stub) -> None:
    (model,) = tail_engine.DescribeEngine(engine_pb2.DescribeEngineRequest(), timeout=60).models

    assert (model.model, 0 < model.tail_example_seconds < 1) == ("tailed", True)


def test_a_tail_adapts_behind_its_head(
    tail_engine: Stub, tail_request: engine_pb2.AdaptRequest
) -> None:
    both = tail_engine.Adapt(tail_request, timeout=60)
    again = tail_engine.Adapt(tail_request, timeout=60)
    tail_request.ClearField("tail")
    head = tail_engine.Adapt(tail_request, timeout=60)

    assert both.parameters == again.parameters
    arrays = _arrays(both.parameters)
    assert set(_arrays(head.parameters)) == {"head.weight", "head.bias"}
    assert set(arrays) > {"head.weight", "head.bias", "tail.classes", "tail.last.bias"}
    assert arrays["tail.mix"].shape == (2,)
    assert (both.step_count, both.stop_reason) == (0, engine_pb2.STOP_REASON_COMPLETED)
    assert tuple(both.held_out_logits.shape) == (9, 3)
    assert both.held_out_logits != head.held_out_logits


def test_a_deadline_leaves_the_head_if_that_is_allowed(
    tail_engine: Stub, tail_request: engine_pb2.AdaptRequest
) -> None:
    tail_request.tail.step_count = ENDLESS
    with pytest.raises(grpc.RpcError) as caught:
        tail_engine.Adapt(tail_request, timeout=1.0)
    tail_request.allow_partial = True

    answer = with_more_time(lambda seconds: tail_engine.Adapt(tail_request, timeout=seconds), 2.0)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert answer.stop_reason == engine_pb2.STOP_REASON_TIME_BUDGET
    assert set(_arrays(answer.parameters)) == {"head.weight", "head.bias"}


def test_a_tail_of_other_maps_is_refused(
    tail_engine: Stub, tail_request: engine_pb2.AdaptRequest
) -> None:
    tail_request.tail.crop_maps.CopyFrom(engine_pb2.Tensor(shape=[1, 9, 3, 2, 2], data=bytes(432)))

    with pytest.raises(grpc.RpcError) as caught:
        tail_engine.Adapt(tail_request, timeout=60)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_short_adaptation_does_not_wait_for_a_long_one(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.step_count = ENDLESS
    long = engine.Adapt.future(request_message, timeout=300)

    request_message.step_count = 3
    for _ in range(3):
        assert engine.Adapt(request_message, timeout=60).step_count == 3

    assert not long.done()
    long.cancel()


def test_equal_requests_get_equal_bytes(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    first = engine.Adapt(request_message, timeout=60)
    second = engine.Adapt(request_message, timeout=60)
    request_message.seed = 1
    third = engine.Adapt(request_message, timeout=60)

    assert first.parameters == second.parameters
    assert first.parameters != third.parameters


def test_the_deadline_ends_the_loop(engine: Stub, request_message: engine_pb2.AdaptRequest) -> None:
    request_message.step_count = ENDLESS

    with pytest.raises(grpc.RpcError) as caught:
        engine.Adapt(request_message, timeout=0.5)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    request_message.step_count = 1
    assert engine.Adapt(request_message, timeout=60).step_count == 1


def test_a_partial_answer_comes_before_the_deadline(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.step_count = ENDLESS
    request_message.allow_partial = True

    answer = with_more_time(lambda seconds: engine.Adapt(request_message, timeout=seconds), 1.0)

    assert answer.stop_reason == engine_pb2.STOP_REASON_TIME_BUDGET
    assert 1 <= answer.step_count < ENDLESS
    assert answer.parameters


def test_cancelling_frees_the_engine(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.step_count = ENDLESS
    asked = engine_pb2.AdaptWithProgressRequest(task=request_message)
    asked.interval.FromMilliseconds(10)
    # The first has a slot, however few there are.
    endless: list[Any] = [engine.AdaptWithProgress(asked, timeout=300)]
    next(endless[0])
    endless += [engine.Adapt.future(request_message, timeout=300) for _ in range(3)]

    for call in endless:
        call.cancel()

    request_message.step_count = 1
    assert engine.Adapt(request_message, timeout=30).step_count == 1


def test_divergence_is_an_answer_without_arrays(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    shape = tuple(request_message.support.shape)
    request_message.support.data = np.full(shape, 3e38, np.float32).tobytes()

    answer = engine.Adapt(request_message, timeout=60)

    assert answer.stop_reason == engine_pb2.STOP_REASON_DIVERGED
    assert not answer.parameters
    assert answer.step_count == 1


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("model", "other", grpc.StatusCode.FAILED_PRECONDITION),
        ("bundle_digest", "0" * 64, grpc.StatusCode.FAILED_PRECONDITION),
        ("way", 4, grpc.StatusCode.INVALID_ARGUMENT),
        ("way", 0, grpc.StatusCode.INVALID_ARGUMENT),
        ("step_count", 0, grpc.StatusCode.INVALID_ARGUMENT),
        ("step_count", ENDLESS + 1, grpc.StatusCode.INVALID_ARGUMENT),
        ("batch_size", 0, grpc.StatusCode.INVALID_ARGUMENT),
        ("learning_rate", float("nan"), grpc.StatusCode.INVALID_ARGUMENT),
        ("preconditioner", "newton", grpc.StatusCode.INVALID_ARGUMENT),
        ("head", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("support", engine_pb2.Tensor(shape=[6, 1, 5, 5], data=bytes(600)), None),
        ("support", engine_pb2.Tensor(shape=[6, 1, 12, 12], data=b"short"), None),
        ("support", engine_pb2.Tensor(), None),
    ],
)
def test_what_does_not_fit_is_refused(
    engine: Stub,
    request_message: engine_pb2.AdaptRequest,
    field: str,
    value: object,
    code: grpc.StatusCode | None,
) -> None:
    request_message.ClearField(field)
    if isinstance(value, engine_pb2.Tensor):
        request_message.support.CopyFrom(value)
    else:
        setattr(request_message, field, value)

    with pytest.raises(grpc.RpcError) as caught:
        engine.Adapt(request_message, timeout=60)

    assert caught.value.code() is (code or grpc.StatusCode.INVALID_ARGUMENT)


def test_an_infinite_statistic_is_divergence(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    """Batch norm makes such inputs finite again, but queries could not be normalized by them."""
    shape = tuple(request_message.support.shape)
    images = 1e20 * np.random.default_rng(0).random(shape, dtype=np.float32)
    request_message.support.data = images.tobytes()

    answer = engine.Adapt(request_message, timeout=60)

    assert answer.stop_reason == engine_pb2.STOP_REASON_DIVERGED
    assert not answer.statistics


def test_the_support_accuracy_is_that_of_the_adapted_model(
    engine: Stub, request_message: engine_pb2.AdaptRequest
) -> None:
    request_message.learning_rate = 0.01
    request_message.step_count = 100

    answer = engine.Adapt(request_message, timeout=60)

    assert answer.support_accuracy == 1.0
    assert answer.support_loss[-1] < 0.5 * answer.support_loss[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_adapts_as_a_cpu(
    gpu_engine: Stub,
    model: LoadedModel,
    reference: Adapt,
    request_message: engine_pb2.AdaptRequest,
) -> None:
    answer = gpu_engine.Adapt(request_message, timeout=60)

    assert gpu_engine.Adapt(request_message, timeout=60).parameters == answer.parameters
    wanted = reference(model, decode_task(request_message))
    for name, array in _arrays(answer.parameters).items():
        np.testing.assert_allclose(array, wanted.parameters[name], rtol=0, atol=5e-3)
