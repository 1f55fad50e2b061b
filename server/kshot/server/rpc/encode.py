"""Turns the front's own types into messages of the wire."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kshot.server.adaptation import AdaptResult
from kshot.server.call_context import Call, current_call
from kshot.server.predict.prediction import Answers
from kshot.server.report.estimate import AccuracyEstimate
from kshot.server.report.examples import ExampleNote
from kshot.server.request.inputs import PredictInput
from kshot.server.request.options import AdaptOptions
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.tail import TailReport
from kshot.v1 import adaptation_pb2 as wire

Response = TypeVar("Response", wire.PredictResponse, wire.AdaptAndPredictResponse)

_ALL = slice(None)
# Queries whose predictions are made in one.
_PART = 16
_ONE_AT_A_TIME = threading.Lock()


def adapted_model_message(model: AdaptedModelRecord) -> wire.AdaptedModel:
    """Describe an adapted model; one that is not stored has no id, times and size."""
    message = wire.AdaptedModel(
        id=model.id,
        model=model.model,
        bundle_digest=model.bundle_digest,
        weights_digest=model.weights_digest,
        adaptation_digest=model.adaptation_digest,
        class_names=model.class_names,
        options=options_message(model.options),
        size_bytes=model.size_bytes,
        step_count=model.step_count,
        support_accuracy=model.support_accuracy,
        support_digest=model.support_digest,
        support_count=model.support_count,
        support_kept=model.support_kept,
        model_version=model.model_version,
        library_versions=model.library_versions,
        parent=model.parent,
    )
    if model.id:
        message.etag = model.etag
        message.create_time.CopyFrom(timestamp_message(model.create_time))
        message.expire_time.CopyFrom(timestamp_message(model.expire_time))
    return message


def report_message(adaptation: AdaptResult) -> wire.AdaptReport:
    """Tell how the current call's inner loop went."""
    partial, estimated = adaptation.partial, adaptation.model.options.estimate
    return wire.AdaptReport(
        stop_reason=wire.STOP_REASON_TIME_BUDGET if partial else wire.STOP_REASON_COMPLETED,
        support_loss=adaptation.support_loss,
        compute_path=adaptation.compute_path,
        slot_bucket=adaptation.slot_bucket,
        warnings=current_call().support_warnings,
        estimate=_estimate_message(adaptation.estimate if estimated else None),
        example_notes=map(_note_message, adaptation.notes),
        chosen_from=[
            wire.ModelCandidate(model=name, estimate=_estimate_message(estimate))
            for name, estimate in adaptation.chosen_from
        ],
        tail=_tail_message(adaptation.tail),
    )


def _tail_message(tail: TailReport | None) -> wire.TailReport | None:
    if tail is None:
        return None
    return wire.TailReport(
        weight=tail.weight,
        step_count=tail.step_count,
        fold_step_count=tail.fold_step_count,
        needed_time=duration_message(tail.needed_seconds),
    )


def _estimate_message(estimate: AccuracyEstimate | None) -> wire.AccuracyEstimate | None:
    if estimate is None:
        return None
    return wire.AccuracyEstimate(
        accuracy=estimate.accuracy,
        low=estimate.low,
        high=estimate.high,
        example_count=estimate.example_count,
        confusion=estimate.confusion.ravel().tolist(),
        cross_entropy=estimate.cross_entropy,
    )


def _note_message(note: ExampleNote) -> wire.ExampleNote:
    return wire.ExampleNote(
        index=note.index,
        flaw=choice_value(note.flaw),
        other_index=note.other_index,
        class_index=note.other_class,
    )


def options_message(options: AdaptOptions) -> wire.AdaptOptions:
    """Echo all options; the time to live only if the model is kept."""
    values: dict[str, Any] = {
        name: choice_value(value) if isinstance(value, StrEnum) else value
        for name, value in vars(options).items()
    }
    values["ttl"] = duration_message(options.ttl) if options.ttl else None
    values["time_budget"] = duration_message(options.time_budget)
    return wire.AdaptOptions(**values)


def choice_value(choice: StrEnum) -> Any:  # noqa: ANN401 -- the value of any enumeration
    """Return the enum value of a choice: the wire counts them from 1."""
    return 1 + list(type(choice)).index(choice)


def add_predictions(
    response: Response,
    answers: Answers,
    class_names: Sequence[str],
    query: PredictInput,
    rows: slice = _ALL,
) -> Response:
    """Name the best class of each query, and the `top_k` best if they were asked for.

    Returns the response with them.
    """
    if query.omit_class_names:
        class_names = [""] * len(class_names)
    # By the logits, which differ even if two probabilities are 0.
    order = np.argsort(-answers.logits[rows], axis=1, kind="stable")[:, : max(1, query.top_k)]
    probabilities = np.take_along_axis(answers.probabilities[rows], order, axis=1).tolist()
    known: Sequence[float | None] = [None] * len(order)
    if answers.known is not None:
        known = answers.known[rows].tolist()
    least = -1.0 if query.reject_below is None else query.reject_below
    for classes, shares, score in zip(order.tolist(), probabilities, known, strict=True):
        message = response.predictions.add(
            class_index=classes[0],
            class_name=class_names[classes[0]],
            probability=shares[0],
            known_score=score,
            none_of_these=score is not None and score < least,
        )
        if query.top_k:
            add = message.top_classes.add
            for index, share in zip(classes, shares, strict=True):
                add(class_index=index, class_name=class_names[index], probability=share)
    return response


def many_predictions(
    answers: Answers, class_names: Sequence[str], query: PredictInput
) -> Iterator[bytes]:
    """Yield the field `predictions` of a response in parts, as bytes; for a thread.

    Made whole, a large answer keeps other threads from Python for as long as it takes: a part is
    small, and one thread makes one at a time.
    """
    for start in range(0, len(answers.logits), _PART):
        with _ONE_AT_A_TIME:
            rows, part = slice(start, start + _PART), wire.PredictResponse()
            content = add_predictions(part, answers, class_names, query, rows).SerializeToString()
        yield content


def tensor_message(array: npt.NDArray[np.float32]) -> wire.Tensor:
    """Send numbers: little-endian, row-major."""
    data = np.asarray(array, dtype="<f4", order="C").tobytes()
    return wire.Tensor(datatype="FP32", shape=array.shape, data=data)


def timing_message(call: Call) -> wire.Timing:
    """Send the call's timing split as far as it has come."""
    split = {phase: duration_message(seconds) for phase, seconds in call.seconds.items()}
    return wire.Timing(**split)


def duration_message(seconds: float) -> Duration:
    """Send a span of time."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def timestamp_message(seconds: float) -> Timestamp:
    """Send a time, in seconds since 1970."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message
