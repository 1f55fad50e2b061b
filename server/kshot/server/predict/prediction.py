"""The answers to queries: checks, preprocessing, logits, probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode
from kshot.server.call_context import current_call
from kshot.server.errors import NonFiniteLogits, SupportNotKept
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.predictor import images_per_query
from kshot.server.report.known import known_scores, least_threshold
from kshot.server.report.novelty import span_from
from kshot.server.request.images import (
    QUERIES,
    ImageRules,
    PixelBudget,
    image_count,
    prepare_images,
)
from kshot.server.request.inputs import Images
from kshot.server.request.options import check_allowed, one_of
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]

# Comparing this many answers with examples takes under a millisecond.
_SCORES_ON_LOOP = 20_000


@dataclass(frozen=True)
class Answers:
    """Logits and probabilities `(query_count, way)`, and the mode they were made in.

    `novelties` and `known` `(query_count,)`, known scores, are there where the adapted model can
    tell.
    """

    logits: Floats
    probabilities: Floats
    mode: BatchNormMode
    novelties: Floats | None = None
    known: Floats | None = None


@dataclass(frozen=True)
class Question:
    """An adapted model's arrays and the mode to answer queries in."""

    model: ServedModel
    arrays: AdaptedArrays
    mode: BatchNormMode

    @property
    def head_alone(self) -> bool:
        """Tell whether the answer runs in less time than a thread takes up."""
        return self.model.predictor.head_alone(self.arrays)

    def run(self, queries: Floats) -> Floats:
        """Return logits `(query_count, way)`; novelties are a further column, if there are any."""
        logits = self.model.predictor.logits(self.arrays, queries, self.mode)
        span = span_from(self.arrays.span)
        if span is None:
            return logits
        features = queries[:, : self.model.bundle.manifest.feature_count]
        return np.column_stack([logits, span.novelties(features)])

    def read(self, outputs: Floats, first: int = 0) -> Answers:
        """Read what `run` returns; raise `NonFiniteLogits`."""
        if not self.arrays.span:
            return read_logits(outputs, self.mode, first)
        return replace(read_logits(outputs[:, :-1], self.mode, first), novelties=outputs[:, -1])


def prepare_queries(
    queries: Images | None, model: ServedModel, budget: PixelBudget, violations: Violations
) -> Floats:
    """Return queries as input of the model; blocks."""
    manifest = model.bundle.manifest
    rules = ImageRules(QUERIES, manifest.limits.max_query_count, budget, manifest.input)
    return prepare_images(queries, rules, violations)


def check_mode(mode: BatchNormMode | None, model: ServedModel, violations: Violations) -> None:
    """Note a mode that the model does not allow; without one, its own is used."""
    if mode is not None:
        allowed = model.bundle.manifest.batch_norm.allowed
        check_allowed("batch_norm_mode", mode, one_of(allowed), violations)


def check_kept(question: Question, adapted_model: str) -> None:
    """Raise `SupportNotKept` for a mode that answers with what is not kept."""
    if not question.model.predictor.answers(question.arrays, question.mode):
        mode = question.mode
        raise SupportNotKept(adapted_model, f"nothing answers in mode {mode} (ask in another)")


def check_rejection(
    reject_below: float | None, arrays: AdaptedArrays, violations: Violations
) -> None:
    """Note a threshold for an adapted model that has no known scores."""
    if reject_below is not None and not arrays.references.size:
        violations.add(
            "reject_below",
            "expected an adapted model with known scores, got one without (imports have none); "
            "adapt with two examples or more per class, `estimate`, and a head from the support "
            "set without steps or `fold_count`",
        )


async def scored(
    answers: Answers, arrays: AdaptedArrays, reject_below: float | None, workers: Workers
) -> Answers:
    """Return what `with_known_scores` does; off the event loop if there are many."""
    score = partial(with_known_scores, answers, arrays, reject_below)
    many = len(answers.logits) * arrays.references.size > _SCORES_ON_LOOP
    return await workers.compute(score) if many else score()


def with_known_scores(
    answers: Answers, arrays: AdaptedArrays, reject_below: float | None = None
) -> Answers:
    """Add known scores if there are references; else raise `InvalidRequest` for a threshold."""
    if arrays.references.size:
        least = least_threshold(arrays.references)
        if reject_below is not None and reject_below <= least:
            current_call().query_warnings.append(
                f"reject_below {reject_below:g} refuses nothing: with {len(arrays.references)} "
                f"examples the least known score is {least:.3g}"
            )
        known = known_scores(answers.logits, arrays.references, answers.novelties)
        return replace(answers, known=known)
    violations = Violations()
    check_rejection(reject_below, arrays, violations)
    violations.check()
    return answers


@dataclass(frozen=True)
class CostLimits:
    """What one request may run: images, and multiply-accumulate operations of their networks."""

    max_images: int
    max_macs: int


def check_cost(
    queries: Images | None,
    support_count: int,
    mode: BatchNormMode,
    image_macs: int,
    limits: CostLimits,
    violations: Violations,
) -> None:
    """Note queries that are too many to run, each alone or with the support set beside it.

    `image_macs` are the operations of an image.
    """
    count = image_count(queries) or 0
    each = images_per_query(support_count, mode)
    most = min(limits.max_images, limits.max_macs // max(1, image_macs))
    if count * each <= most:
        return
    beside = f", {support_count} of the support set beside each query" if each > 1 else ""
    remedy = f"send at most {most // each} images at a time"
    if most < each:
        remedy = "choose another mode" if each > 1 else "the model is too large for this limit"
    violations.add(
        QUERIES,
        f"expected at most {most} images to run in mode {mode} (at most {limits.max_images}, and "
        f"{limits.max_macs} multiply-accumulate operations, {image_macs} each), got {count} images "
        f"({count * each} to run{beside}); {remedy}",
    )


async def answer(question: Question, prepare: Callable[[], Floats], workers: Workers) -> Answers:
    """Classify the queries that `prepare` gives; raise what it raises, or `NonFiniteLogits`.

    Each run of the network is a separate job: other calls run in between.
    """

    def begin() -> tuple[Floats, list[slice], Answers]:
        queries = prepare()
        parts = question.model.predictor.parts(question.arrays, len(queries), question.mode)
        return queries, parts[1:], _answer_part(question, queries, parts[0])

    queries, parts, first = await workers.compute(begin)
    rest = [await workers.compute(partial(_answer_part, question, queries, part)) for part in parts]
    return _join([first, *rest]) if rest else first


def _answer_part(question: Question, queries: Floats, part: slice) -> Answers:
    with current_call().measure("compute"):
        return question.read(question.run(queries[part]), part.start)


def _join(answers: Sequence[Answers]) -> Answers:
    return Answers(
        np.concatenate([each.logits for each in answers]),
        np.concatenate([each.probabilities for each in answers]),
        answers[0].mode,
        None
        if answers[0].novelties is None
        else np.concatenate([cast(Floats, each.novelties) for each in answers]),
    )


def read_logits(logits: Floats, mode: BatchNormMode, first: int = 0) -> Answers:
    """Turn logits `(query_count, way)` into answers; raise `NonFiniteLogits`.

    `first` is the index of their first query in the request.
    """
    finite = np.isfinite(logits).all(axis=1)  # (query_count,)
    if not finite.all():
        raise NonFiniteLogits(first + int(np.flatnonzero(~finite)[0]))
    return Answers(logits, softmax(logits), mode)


def softmax(logits: Floats) -> Floats:
    """Return probabilities of rows, computed in float64."""
    exponents = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(exponents)
    probabilities: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
