"""Turns messages of the wire into the front's own types, and notes what is invalid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from kshot.bundle import BatchNormMode
from kshot.server.lives.revision import Revision
from kshot.server.request.inputs import (
    AdaptInput,
    EncodedImages,
    Images,
    PredictInput,
    SupportSet,
    TensorImages,
)
from kshot.server.request.options import OPTION_TYPES, OptionValue
from kshot.server.request.renewal import Renewal
from kshot.server.request.violations import Violations
from kshot.v1 import adaptation_pb2 as wire

Choice = TypeVar("Choice", bound=StrEnum)
Item = TypeVar("Item")

# More than any model allows: reading them all would block the event loop for nothing.
_MAX_ITEMS = 100_000
_MAX_AXES = 16


def adapt_input(
    request: wire.AdaptRequest | wire.AdaptAndPredictRequest, violations: Violations
) -> AdaptInput:
    """Read a request to adapt."""
    support_set = _support_set(request.support_set, "support_set", violations)
    return AdaptInput(request.model, support_set, _options(request.options, violations))


def revision_input(request: wire.ReviseAdaptedModelRequest, violations: Violations) -> Revision:
    """Read a request to revise an adapted model."""
    relabellings = _few(request.relabellings, "relabellings", violations)
    return Revision(
        request.adapted_model,
        _few(request.removed_indices, "removed_indices", violations),
        tuple((each.index, each.class_name) for each in relabellings),
        _support_set(request.added, "added", violations),
        _options(request.options, violations),
        request.etag,
    )


def predict_input(
    request: wire.PredictRequest | wire.AdaptAndPredictRequest, violations: Violations
) -> PredictInput:
    """Read a request to classify queries."""
    if request.top_k < 0:
        violations.add("top_k", f"expected 0 or more, got {request.top_k}")
    mode = None
    if isinstance(request, wire.PredictRequest):
        mode = batch_norm_mode(request.batch_norm_mode, "batch_norm_mode", violations)
    reject_below = request.reject_below if request.HasField("reject_below") else None
    if reject_below is not None and not 0 <= reject_below <= 1:
        violations.add("reject_below", f"expected a share from 0 to 1, got {reject_below:g}")
    return PredictInput(
        _images(request.queries),
        mode,
        request.top_k,
        request.return_logits,
        reject_below,
        request.omit_class_names,
    )


def renewal(request: wire.UpdateAdaptedModelRequest) -> Renewal:
    """Read a request to change when an adapted model expires."""
    kind, time = request.WhichOneof("expiration"), request.expire_time
    return Renewal(
        time.seconds + time.nanos / 1e9 if kind == "expire_time" else None,
        seconds_of(request.ttl) if kind == "ttl" else None,
        request.update_mask.paths[:_MAX_AXES],
        request.etag,
    )


def batch_norm_mode(
    number: wire.BatchNormMode.ValueType, field: str, violations: Violations
) -> BatchNormMode | None:
    """Read a batch-norm mode, None for the default."""
    return _choice(BatchNormMode, number, field, violations)


def _support_set(support: wire.SupportSet, field: str, violations: Violations) -> SupportSet:
    return SupportSet(
        images=_images(support.images),
        class_indices=_few(support.class_indices, f"{field}.class_indices", violations),
        class_names=_few(support.class_names, f"{field}.class_names", violations),
    )


def _images(images: wire.Images) -> Images | None:
    kind = images.WhichOneof("content")
    if kind == "tensor":
        tensor = images.tensor
        return TensorImages(tensor.datatype, tuple(tensor.shape[:_MAX_AXES]), tensor.data)
    return EncodedImages(tuple(images.encoded.items[:_MAX_ITEMS])) if kind == "encoded" else None


def _few(items: Sequence[Item], field: str, violations: Violations) -> tuple[Item, ...]:
    if len(items) > _MAX_ITEMS:
        violations.add(field, f"expected at most {_MAX_ITEMS} items, got {len(items)}")
    return tuple(items[:_MAX_ITEMS])


def _options(options: wire.AdaptOptions, violations: Violations) -> dict[str, OptionValue]:
    """Read the options that are set, each by the type that the table of options gives it."""
    given: dict[str, OptionValue] = {}
    for field, value in options.ListFields():
        kind = OPTION_TYPES[field.name]
        if isinstance(value, Duration):
            given[field.name] = seconds_of(value)
        elif not (isinstance(kind, type) and issubclass(kind, StrEnum)):
            given[field.name] = value
        elif choice := _choice(kind, value, f"options.{field.name}", violations):
            given[field.name] = choice
    return given


def seconds_of(duration: Duration) -> float:
    """Read a span of time; not a number where it is none."""
    seconds = duration.seconds + duration.nanos / 1e9
    return seconds if abs(duration.nanos) < 1e9 else math.nan


def _choice(choice: type[Choice], number: int, field: str, violations: Violations) -> Choice | None:
    """Read an enum value: 0 is the default, the others count the choices from 1."""
    if number == 0:
        return None
    choices = list(choice)
    if 1 <= number <= len(choices):
        return choices[number - 1]
    violations.add(field, f"expected 0 to {len(choices)}, got the unknown value {number}")
    return None
