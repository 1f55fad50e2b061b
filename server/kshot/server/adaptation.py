"""A checked request to adapt becomes an adapted model: the engine, estimates, digests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode
from kshot.server.call_context import current_call, seconds_to_spare
from kshot.server.checked_task import CheckedTask, SeenImages
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.errors import AdaptationDiverged, DeadlineExceeded
from kshot.server.folds import FoldsFailedError, held_out_logits
from kshot.server.predict.predictor import Predictor
from kshot.server.progress import Stage
from kshot.server.report.estimate import AccuracyEstimate, estimate_accuracy
from kshot.server.report.examples import ExampleNote, note_answers
from kshot.server.report.known import all_may_be_left_out, strengths
from kshot.server.report.novelty import span_of
from kshot.server.request.digest import weights_digest
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.kept_support import KeptSupport, PackedImages
from kshot.server.tail import TailReport, took_all
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
RunEngine = Callable[[EngineTask, float | None], Awaitable[EngineResult]]

# The most of the caller's time that is reserved to store and send the answer.
_ANSWER_SECONDS = 0.05


@dataclass(frozen=True)
class AdaptResult:
    """The result of a request to adapt; `model` is not stored yet and has no id.

    `estimate` is there for a choice of models even if the options do not ask for it. `chosen_from`
    has the models that were compared, by name, with their estimates. `warnings` are sentences
    about this model alone. `tail` tells what became of the tail, where it may adapt.
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
    tail: TailReport | None = None


async def adapt(
    task: CheckedTask, run_engine: RunEngine, predictor: Predictor, workers: Workers
) -> AdaptResult:
    """Run the inner loop; raise `AdaptationDiverged`, `DeadlineExceeded` or `Unavailable`."""

    async def run(engine_task: EngineTask, stage: Stage = Stage.ESTIMATING) -> EngineResult:
        call, started = current_call(), time.perf_counter()
        if call.progress is not None:
            call.progress.begin_loop(stage, engine_task.model, engine_task.options.step_count)
        seconds = seconds_to_work(call.remaining())
        if engine_task.tail is not None and seconds is not None:
            # What follows a head that the deadline leaves takes longer than sending it.
            seconds = max(seconds_to_spare(call.remaining()) or 0, seconds / 2)
        result = await run_engine(engine_task, seconds)
        # The engine counts only its computing; the rest was waiting.
        call.add("compute", result.seconds)
        call.engine_seconds += result.seconds
        call.add("queue", time.perf_counter() - started - result.seconds)
        return result

    result = await run(task.for_engine(), Stage.ADAPTING)
    held_out, warnings = result.held_out_logits, tuple[str, ...]()
    if held_out is not None:
        held_out = held_out / np.float32(task.temperature)
    elif task.engine_task.options.folds_wanted and result.stop_reason == "COMPLETED":
        remaining = current_call().remaining()
        try:
            held_out = await held_out_logits(task.engine_task, run, predictor, workers, remaining)
        except FoldsFailedError as error:
            warnings = (f"options.fold_count: there is no estimate by folds: {error}",)
    out_of_time = result.stop_reason == "TIME_BUDGET"
    warnings += task.tail_warnings(out_of_time=out_of_time, failed=result.tail_failed)
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
    tail = None if task.tail is None else TailReport.of(task.tail, result)
    digested = options.digested(result.step_count)
    if task.tail is not None and took_all(result):
        digested |= task.tail.digested()
    model = AdaptedModelRecord(
        id="",
        model=engine_task.model,
        bundle_digest=engine_task.bundle_digest,
        weights_digest=weights_digest(result.parameters),
        adaptation_digest=seen.finish_digest(
            engine_task.class_indices,
            task.class_names,
            digested,
        ),
        class_names=task.class_names,
        options=options,
        create_time=now,
        expire_time=now + options.ttl,
        size_bytes=0,
        step_count=result.step_count,
        support_accuracy=result.support_accuracy,
        support_digest=seen.support_digest,
        support_count=len(engine_task.class_indices),
        support_kept=task.keeps_support,
    )
    classes = np.asarray(engine_task.class_indices, np.int64)
    notes = list(seen.notes)
    arrays = AdaptedArrays(
        result.parameters, result.statistics, _kept_support(task), examples=_kept_examples(task)
    )
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
        partial=result.stop_reason == "TIME_BUDGET" and options.allow_partial,
        support_loss=result.support_loss,
        compute_path=result.compute_path,
        slot_bucket=result.slot_bucket,
        estimate=estimate,
        notes=tuple(sorted(notes, key=lambda note: note.index)),
        tail=tail,
    )


def _with_references(
    arrays: AdaptedArrays, task: CheckedTask, held_out: Floats, classes: Integers
) -> AdaptedArrays:
    """Add what known scores are made of, if each example may be left out."""
    if not all_may_be_left_out(classes, task.engine_task.way):
        return arrays
    if not task.feature_blocks:
        return replace(arrays, references=np.sort(strengths(held_out)))
    features = task.engine_task.support[:, : sum(task.feature_blocks)]
    span, novelties = span_of(features, classes, task.feature_blocks)
    return replace(
        arrays, references=np.sort(strengths(held_out, novelties)), span=dict(vars(span))
    )


def _kept_support(task: CheckedTask) -> Floats:
    """Return the support set if queries may ask it, else `(n, 0, 1, 1)`.

    In mode stored none does, and features of two networks are larger than the adapted head.
    """
    support, options = task.engine_task.support, task.engine_task.options
    weights_only = options.ttl > 0 and not options.retain_support
    if weights_only or options.batch_norm_mode is BatchNormMode.STORED:
        return support[:, :0].copy()  # a view would hold the features
    return support


def _kept_examples(task: CheckedTask) -> KeptSupport | None:
    """Return the examples to adapt to again; their images unless the kept support set has them."""
    if not task.keeps_support:
        return None
    packed, engine_task = task.packed, task.engine_task
    if packed is None and engine_task.options.batch_norm_mode is BatchNormMode.STORED:
        packed = PackedImages(engine_task.support)
    return KeptSupport(np.asarray(engine_task.class_indices, np.int32), packed)
