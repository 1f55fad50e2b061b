"""Turns values of this package into messages of the wire, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from kshot.client.adapt_run import AdaptProgress
from kshot.client.errors import InputError
from kshot.client.inputs import Gathered, name_item, read_images
from kshot.client.labels import Classes, Label, Labels, label_array, read_labels
from kshot.client.options import decode_choice, decode_options, seconds, set_duration
from kshot.client.results import (
    AccuracyEstimate,
    Description,
    ExampleNote,
    ModelCandidate,
    Prediction,
    Report,
    TailReport,
    Timing,
)
from kshot.client.values import shown
from kshot.v1 import adaptation_pb2 as wire

_MOST_BYTES = 2**31 - 2**20  # of a message, less what is beside the images
_DATATYPES: dict[str, np.dtype[np.uint8 | np.float32]] = {
    "UINT8": np.dtype(np.uint8),
    "FP32": np.dtype("<f4"),
}


def encode_images(images: Gathered, side: int = 0, field: str = "images") -> wire.Images:
    """Write images as one tensor or as encoded files; raises `InputError`.

    A `side` above 0 bounds the shorter side of images that are not prepared. `field` is the name
    that errors give them.
    """
    content = read_images(images, side, field)
    size = sum(map(len, content)) if isinstance(content, tuple) else content.nbytes
    if size > _MOST_BYTES:
        raise InputError(
            f"{field}: expected at most {_MOST_BYTES} bytes in one call, got {size}; send fewer or "
            "smaller images"
        )
    if isinstance(content, tuple):
        return wire.Images(encoded=wire.EncodedImages(items=content))
    datatype = "UINT8" if content.dtype == np.uint8 else "FP32"
    data = content.astype(_DATATYPES[datatype], copy=False).tobytes()
    return wire.Images(tensor=wire.Tensor(datatype=datatype, shape=content.shape, data=data))


def encode_support(
    images: Gathered, labels: Labels, side: int = 0
) -> tuple[wire.SupportSet, Classes]:
    """Write labelled examples with their classes sorted, as `encode_images` does."""
    encoded = encode_images(images, side)
    form = encoded.WhichOneof("content")
    count = encoded.tensor.shape[0] if form == "tensor" else len(encoded.encoded.items)
    classes = read_labels(labels, count)
    support = wire.SupportSet(
        images=encoded, class_indices=classes.indices, class_names=classes.names
    )
    return support, classes


def support_names(
    images: Gathered, classes: Classes, field: str = "support_set"
) -> dict[str, Callable[[int], str]]:
    """Name the examples and the classes of a support set as the caller does."""
    return {
        f"{field}.images.encoded.items": lambda index: name_item(images, index, "images"),
        f"{field}.class_names": lambda index: f"label {shown(classes.labels[index])}",
    }


def query_names(queries: Gathered) -> dict[str, Callable[[int], str]]:
    """Name the queries as the caller does."""
    return {"queries.encoded.items": lambda index: name_item(queries, index, "queries")}


def encode_renewal(
    adapted_model: str, ttl: object, expire_at: object
) -> wire.UpdateAdaptedModelRequest:
    """Write when an adapted model is to expire: after `ttl`, or at `expire_at`, an aware time."""
    request = wire.UpdateAdaptedModelRequest(adapted_model=adapted_model)
    if (ttl is None) == (expire_at is None):
        raise InputError("ttl and expire_at: expected one of them, got both or none")
    if ttl is not None:
        set_duration(request.ttl, "ttl", ttl)
        request.ttl.SetInParent()
    elif isinstance(expire_at, datetime) and expire_at.utcoffset() is not None:
        request.expire_time.FromDatetime(expire_at)
        request.expire_time.SetInParent()
    else:
        raise InputError(
            f"expire_at: expected a datetime with a time zone, got {shown(expire_at)}; such as "
            "datetime.now(UTC) + timedelta(days=1)"
        )
    return request


def decode_tensor(tensor: wire.Tensor) -> npt.NDArray[np.float32]:
    """Read an FP32 tensor."""
    return np.frombuffer(tensor.data, "<f4").astype(np.float32).reshape(tuple(tensor.shape))


def decode_prediction(
    response: wire.PredictResponse | wire.AdaptAndPredictResponse,
    labels: Sequence[Label] | None,
    round_trip_ms: float,
) -> Prediction:
    """Read the answer to queries; `labels` are the caller's own if they are known.

    Only `AdaptAndPredict` describes the model that answered.
    """
    description = report = None
    model: wire.PredictResponse | wire.AdaptedModel
    if isinstance(response, wire.AdaptAndPredictResponse):
        model = response.adapted_model
        report = decode_report(response.report, model.class_names)
        description = decode_description(model)
        model_id = model.id
    else:
        model, model_id = response, response.adapted_model
    names = tuple(model.class_names)
    probabilities = decode_tensor(response.probabilities)
    return Prediction(
        labels=label_array(names if labels is None else labels)[probabilities.argmax(axis=1)],
        probabilities=probabilities,
        logits=decode_tensor(response.logits) if response.HasField("logits") else None,
        class_names=names,
        adapted_model=model_id,
        weights_digest=model.weights_digest,
        batch_norm_mode=decode_choice("batch_norm_mode", response.batch_norm_mode),
        timing=decode_timing(response.timing, round_trip_ms),
        description=description,
        report=report,
        warnings=tuple(response.warnings),
        known_scores=_known_scores(response.predictions),
        none_of_these=np.array([each.none_of_these for each in response.predictions], np.bool_),
    )


def _known_scores(predictions: Sequence[wire.Prediction]) -> npt.NDArray[np.float32] | None:
    if not all(each.HasField("known_score") for each in predictions):
        return None
    return np.array([each.known_score for each in predictions], np.float32)


def decode_timing(timing: wire.Timing, round_trip_ms: float) -> Timing:
    """Read the server's timing and add the client's own measurement."""
    return Timing(
        queue_ms=1e3 * seconds(timing.queue),
        decode_ms=1e3 * seconds(timing.decode),
        compute_ms=1e3 * seconds(timing.compute),
        store_ms=1e3 * seconds(timing.store),
        round_trip_ms=round_trip_ms,
    )


def decode_description(model: wire.AdaptedModel) -> Description:
    """Read the description of an adapted model."""
    return Description(
        id=model.id,
        model=model.model,
        bundle_digest=model.bundle_digest,
        weights_digest=model.weights_digest,
        adaptation_digest=model.adaptation_digest,
        class_names=tuple(model.class_names),
        options=decode_options(model.options),
        create_time=_time(model.create_time) if model.HasField("create_time") else None,
        expire_time=_time(model.expire_time) if model.HasField("expire_time") else None,
        size_bytes=model.size_bytes,
        step_count=model.step_count,
        support_accuracy=model.support_accuracy,
        etag=model.etag,
        support_digest=model.support_digest,
        support_count=model.support_count,
        support_kept=model.support_kept,
        model_version=model.model_version,
        library_versions=dict(model.library_versions),
        parent=model.parent,
    )


def decode_progress(progress: wire.AdaptProgress) -> AdaptProgress:
    """Read how far an adaptation is."""
    return AdaptProgress(
        model=progress.model,
        stage=decode_choice("adapt_stage", progress.stage),
        step_count=progress.step_count,
        total_step_count=progress.total_step_count,
        support_loss=tuple(progress.support_loss),
    )


def decode_answer(response: wire.AdaptResponse | wire.ReviseAdaptedModelResponse) -> Report:
    """Read the report of an adaptation that is kept."""
    report = decode_report(response.report, response.adapted_model.class_names)
    return replace(report, deduplicated=response.deduplicated)


def decode_report(report: wire.AdaptReport, class_names: Sequence[str]) -> Report:
    """Read the report of an adaptation to classes of these names."""
    return Report(
        stop_reason=decode_choice("stop_reason", report.stop_reason),
        support_loss=tuple(report.support_loss),
        compute_path=report.compute_path,
        slot_bucket=report.slot_bucket,
        warnings=tuple(report.warnings),
        estimate=_estimate(report),
        example_notes=tuple(_note(note, class_names) for note in report.example_notes),
        chosen_from=tuple(
            ModelCandidate(candidate.model, _estimate(candidate))
            for candidate in report.chosen_from
        ),
        tail=_tail(report.tail) if report.HasField("tail") else None,
    )


def _tail(report: wire.TailReport) -> TailReport:
    return TailReport(
        weight=report.weight,
        step_count=report.step_count,
        fold_step_count=report.fold_step_count,
        needed_time=seconds(report.needed_time),
    )


def _estimate(holder: wire.AdaptReport | wire.ModelCandidate) -> AccuracyEstimate | None:
    if not holder.HasField("estimate"):
        return None
    estimate = holder.estimate
    confusion = np.array(estimate.confusion, np.int64)
    way = math.isqrt(len(confusion))
    return AccuracyEstimate(
        accuracy=estimate.accuracy,
        low=estimate.low,
        high=estimate.high,
        example_count=estimate.example_count,
        confusion=confusion.reshape(way, way),
        cross_entropy=estimate.cross_entropy,
    )


def _note(note: wire.ExampleNote, class_names: Sequence[str]) -> ExampleNote:
    return ExampleNote(
        index=note.index,
        flaw=decode_choice("example_flaw", note.flaw),
        other_index=note.other_index if note.HasField("other_index") else None,
        class_name=class_names[note.class_index] if note.HasField("class_index") else None,
    )


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)
