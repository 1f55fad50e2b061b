"""A request to adapt becomes an adapted model: checks, options, the engine, digests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode, Head, Manifest
from kshot.server.call_context import current_call
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.errors import AdaptationDiverged, DeadlineExceeded
from kshot.server.folds import FoldsFailedError, held_out_logits
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.predictor import Predictor
from kshot.server.report.estimate import AccuracyEstimate, estimate_accuracy
from kshot.server.report.examples import ExampleNote, note_answers, note_pictures
from kshot.server.report.known import all_may_be_left_out, strengths
from kshot.server.report.novelty import span_of
from kshot.server.report.support_warnings import support_warnings
from kshot.server.request.digest import begin_adaptation_digest, weights_digest
from kshot.server.request.grounds import grounds_of, support_ground_warnings
from kshot.server.request.images import (
    SUPPORT_IMAGES,
    ImageRules,
    PixelBudget,
    check_sent,
    image_count,
    prepare_images,
)
from kshot.server.request.inputs import AdaptInput
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.validation import check_labels
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
RunEngine = Callable[[EngineTask, float | None], Awaitable[EngineResult]]

# The most of the caller's time that is reserved to store and send the answer.
_ANSWER_SECONDS = 0.05


@dataclass(frozen=True)
class CheckedTask:
    """A checked request to adapt: a prepared support set and resolved options.

    `images` are the prepared ones, which the digest is made of; the engine's support set is the
    encoded one where the bundle has an encoder. `temperature` divides the adapted model's logits.
    `feature_blocks` are the sizes of those in the engine's support set, if it is features.
    """

    engine_task: EngineTask
    class_names: tuple[str, ...]
    images: Floats
    temperature: float = 1.0
    feature_blocks: tuple[int, ...] = ()
    seen: SeenImages | None = None

    def encoded(self, support: Floats) -> CheckedTask:
        """Give the engine an encoded support set and drop the images; blocks.

        Encoded images are far smaller, and many calls may wait for the engine.
        """
        seen = SeenImages.of(self.engine_task, self.images)
        engine_task = replace(self.engine_task, support=support)
        return replace(self, engine_task=engine_task, images=self.images[:0].copy(), seen=seen)


@dataclass(frozen=True)
class SeenImages:
    """What an adaptation keeps of prepared images: the start of its digest, and notes on them."""

    finish_digest: Callable[[Sequence[int], Sequence[str], Mapping[str, object]], str]
    notes: tuple[ExampleNote, ...]

    @staticmethod
    def of(task: EngineTask, images: Floats) -> SeenImages:
        """Look at the prepared images of a task; blocks."""
        classes = np.asarray(task.class_indices, np.int64)
        digest = begin_adaptation_digest(task.bundle_digest, images)
        notes = note_pictures(images, classes) if task.options.estimate else ()
        return SeenImages(digest, tuple(notes))


@dataclass(frozen=True)
class AdaptResult:
    """The result of a request to adapt; `model` is not stored yet and has no id.

    `estimate` is there for a choice of models even if the options do not ask for it. `chosen_from`
    has the models that were compared, by name, with their estimates. `warnings` are sentences
    about this model alone.
    """

    model: AdaptedModelRecord
    arrays: AdaptedArrays
    partial: bool
    support_loss: tuple[float, ...]
    compute_path: str
    slot_bucket: int
    estimate: AccuracyEstimate | None
    notes: tuple[ExampleNote, ...]
    chosen_from: tuple[tuple[str, AccuracyEstimate | None], ...] = ()
    warnings: tuple[str, ...] = ()


def check_task(
    task: AdaptInput,
    model: ServedModel,
    ttl: TtlLimits,
    pixels: PixelBudget,
    violations: Violations,
) -> CheckedTask:
    """Check and prepare a request; blocks. The result is valid if no violation was noted."""
    support_set, manifest = task.support_set, model.bundle.manifest
    count = image_count(support_set.images)
    check_labels(support_set, count, manifest.limits.max_way, violations)
    way = len(support_set.class_names)
    bounds = Bounds(manifest, way, len(support_set.class_indices), ttl)
    options = resolve_options(task.options, bounds, violations)
    rules = ImageRules(
        SUPPORT_IMAGES,
        manifest.limits.max_support_count,
        pixels,
        manifest.input,
    )
    support = prepare_images(support_set.images, rules, violations)
    engine_task = EngineTask(
        model=manifest.name,
        bundle_digest=model.bundle.digest,
        support=support,
        class_indices=support_set.class_indices,
        way=way,
        options=options,
    )
    return task_for(manifest, engine_task, support_set.class_names, support)


def task_for(
    manifest: Manifest, engine_task: EngineTask, class_names: tuple[str, ...], images: Floats
) -> CheckedTask:
    """Add to an engine's task of a model what its answers are read by."""
    options, count = engine_task.options, len(engine_task.class_indices)
    temperature = manifest.temperature(
        options.batch_norm_mode, max(engine_task.way, 2), max(count, 1)
    )
    # Where a head by ridge regression takes the inputs themselves.
    of_inputs = manifest.network.name == "features" and options.head is Head.RIDGE
    blocks = manifest.ridge.block_sizes if of_inputs and manifest.ridge is not None else ()
    return CheckedTask(engine_task, class_names, images, temperature, blocks)


def warnings_of_task(task: CheckedTask, manifest: Manifest) -> tuple[str, ...]:
    """Return sentences about what in a support set may make answers wrong; blocks."""
    classes = np.asarray(task.engine_task.class_indices, np.int64)
    options = task.engine_task.options
    return (
        *support_ground_warnings(grounds_of(task.images, manifest)),
        *support_warnings(task.images, classes, task.class_names, manifest, options),
    )


def check_task_alone(task: AdaptInput, max_way: int, violations: Violations) -> None:
    """Check what needs no model, for a request that names no served one; blocks."""
    images = task.support_set.images
    check_labels(task.support_set, image_count(images), max_way, violations)
    check_sent(images, SUPPORT_IMAGES, violations)


async def adapt(
    task: CheckedTask, run_engine: RunEngine, predictor: Predictor, workers: Workers
) -> AdaptResult:
    """Run the inner loop; raise `AdaptationDiverged`, `DeadlineExceeded` or `Unavailable`."""

    async def run(engine_task: EngineTask) -> EngineResult:
        call, started = current_call(), time.perf_counter()
        result = await run_engine(engine_task, seconds_to_work(call.remaining()))
        # The engine counts only its computing; the rest was waiting.
        call.add("compute", result.seconds)
        call.add("queue", time.perf_counter() - started - result.seconds)
        return result

    result = await run(task.engine_task)
    held_out, warnings = result.held_out_logits, tuple[str, ...]()
    if held_out is not None:
        held_out = held_out / np.float32(task.temperature)
    elif task.engine_task.options.folds_wanted and result.stop_reason == "COMPLETED":
        remaining = current_call().remaining()
        try:
            held_out = await held_out_logits(task.engine_task, run, predictor, workers, remaining)
        except FoldsFailedError as error:
            warnings = (f"options.fold_count: there is no estimate by folds: {error}",)
    # Spans of many examples take a quarter of a second: too long for the threads of the disk.
    finish = workers.prepare if task.feature_blocks else workers.brief
    adaptation = await finish(lambda: _adaptation(task, result, held_out))
    return replace(adaptation, warnings=warnings)


def seconds_to_work(remaining: float | None) -> float | None:
    """Return the caller's time without what storing and sending takes; None if unlimited.

    Raises `DeadlineExceeded` if it is over.
    """
    if remaining is None:
        return None
    if remaining <= 0:
        raise DeadlineExceeded
    return remaining - min(_ANSWER_SECONDS, remaining / 10)


def _finite(result: EngineResult) -> bool:
    arrays = (*result.parameters.values(), *result.statistics.values())
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _adaptation(task: CheckedTask, result: EngineResult, held_out: Floats | None) -> AdaptResult:
    engine_task, options = task.engine_task, task.engine_task.options
    if result.stop_reason == "DIVERGED" or not _finite(result):
        raise AdaptationDiverged(result.step_count, options.learning_rate)
    now = time.time()
    seen = task.seen or SeenImages.of(engine_task, task.images)
    model = AdaptedModelRecord(
        id="",
        model=engine_task.model,
        bundle_digest=engine_task.bundle_digest,
        weights_digest=weights_digest(result.parameters),
        adaptation_digest=seen.finish_digest(
            engine_task.class_indices,
            task.class_names,
            options.digested(result.step_count),
        ),
        class_names=task.class_names,
        options=options,
        create_time=now,
        expire_time=now + options.ttl,
        size_bytes=0,
        step_count=result.step_count,
        support_accuracy=result.support_accuracy,
    )
    classes = np.asarray(engine_task.class_indices, np.int64)
    notes = list(seen.notes)
    arrays = AdaptedArrays(result.parameters, result.statistics, _kept_support(engine_task))
    estimate = None
    if held_out is not None:
        folds = options.fold_count if result.held_out_logits is None else None
        estimate = estimate_accuracy(held_out, classes, engine_task.way, folds)
        if options.estimate:
            notes += note_answers(held_out, classes)
            arrays = _with_references(arrays, task, held_out, classes)
    return AdaptResult(
        model=model,
        arrays=arrays,
        partial=result.stop_reason == "TIME_BUDGET",
        support_loss=result.support_loss,
        compute_path=result.compute_path,
        slot_bucket=result.slot_bucket,
        estimate=estimate,
        notes=tuple(sorted(notes, key=lambda note: note.index)),
    )


def _with_references(
    arrays: AdaptedArrays, task: CheckedTask, held_out: Floats, classes: Integers
) -> AdaptedArrays:
    """Add what known scores are made of, if each example may be left out."""
    if not all_may_be_left_out(classes, task.engine_task.way):
        return arrays
    if not task.feature_blocks:
        return replace(arrays, references=np.sort(strengths(held_out)))
    span, novelties = span_of(task.engine_task.support, classes, task.feature_blocks)
    return replace(
        arrays, references=np.sort(strengths(held_out, novelties)), span=dict(vars(span))
    )


def _kept_support(task: EngineTask) -> Floats:
    """Return the support set as it is stored: `(n, 0, 1, 1)` in mode stored, which never asks it.

    Features of two networks are larger than the adapted head.
    """
    stored = task.options.batch_norm_mode is BatchNormMode.STORED
    return task.support[:, :0].copy() if stored else task.support  # a view would hold the features
