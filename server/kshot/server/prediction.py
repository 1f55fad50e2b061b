"""Answers to queries: checks, preprocessing, logits, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode
from kshot.server.adapted_model import AdaptedArrays
from kshot.server.call import current_call
from kshot.server.catalog import ServedModel
from kshot.server.errors import NonFiniteLogits
from kshot.server.images import ImageRules, prepare_images
from kshot.server.task import Images, PredictTask
from kshot.server.validation import check_choice
from kshot.server.violations import Violations

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """Logits and probabilities `(query_count, way)`, and the mode they were made in."""

    logits: Floats
    probabilities: Floats
    mode: BatchNormMode


def prepare_queries(
    queries: Images | None, model: ServedModel, max_pixels: int, violations: Violations
) -> Floats:
    """Return queries as the model's input; blocks."""
    manifest = model.bundle.manifest
    rules = ImageRules("queries", manifest.limits.max_query_count, max_pixels, manifest.input)
    return prepare_images(queries, rules, violations)


def check_mode(task: PredictTask, model: ServedModel, violations: Violations) -> None:
    """Note a mode that the model does not allow."""
    if task.mode is not None:
        allowed = model.bundle.manifest.batch_norm.allowed
        check_choice("batch_norm_mode", task.mode, allowed, violations)


def answer(
    model: ServedModel, arrays: AdaptedArrays, queries: Floats, mode: BatchNormMode
) -> Answers:
    """Classify prepared queries; blocks; raises `NonFiniteLogits`."""
    call = current_call()
    with call.measure("compute"):
        logits = model.predictor.logits(arrays, queries, mode, call.check)
        finite = np.isfinite(logits).all(axis=1)  # (query_count,)
        if not finite.all():
            raise NonFiniteLogits(int(np.flatnonzero(~finite)[0]))
        return Answers(logits, softmax(logits), mode)


def softmax(logits: Floats) -> Floats:
    """Return probabilities of rows, computed in float64."""
    exponents = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(exponents)
    probabilities: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
