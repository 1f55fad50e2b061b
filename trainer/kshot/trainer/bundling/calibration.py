"""The temperatures of a bundle, fitted to answers to tasks that are adapted as in service."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Calibration, Manifest, TemperatureRule
from kshot.bundle.memory import available_bytes
from kshot.trainer.bundling.temperature import fit_temperature
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import CalibrationError
from kshot.trainer.evaluate.evaluator import Evaluator, Report, part_of
from kshot.trainer.evaluate.scores import Answers, EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.tasks.episodes import check_episodes

# Bytes per logit: of the kept logits, and what fitting those of one mode needs beside, in float64.
KEPT_BYTES, FITTED_BYTES = 4, 48


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and the scores of the answers that it was fitted to, without and with it.

    `kshot evaluate` gives the same scores for the same tasks.
    """

    rule: TemperatureRule
    before: EvaluationResult
    after: EvaluationResult


def check_tasks(
    settings: EvaluationSettings, shots: Sequence[int], manifest: Manifest, dataset: ImageDataset
) -> None:
    """Raise `DataError` when the data set is too small, `CalibrationError` when memory is."""
    way, task_count, query_count = settings.way, settings.task_count, settings.query_count
    for shot in shots:
        check_episodes(dataset, way, shot, query_count)
    logit_count = task_count * query_count * way * way  # of one mode
    needed = logit_count * (KEPT_BYTES * len(manifest.batch_norm.allowed) + FITTED_BYTES)
    available = available_bytes()
    if available is not None and needed > available:
        raise CalibrationError(
            f"the answers to {task_count} tasks with {query_count} queries per class "
            f"need {needed} bytes of memory, but {available} are available; use fewer tasks or "
            "queries"
        )


def fit_calibration(
    settings: EvaluationSettings,
    shots: Sequence[int],
    part: str,
    evaluator: Evaluator,
    report: Report = lambda _done, _total: None,
) -> tuple[Calibration, tuple[TemperatureFit, ...]]:
    """Fit a temperature for each allowed batch-norm mode and each of the growing shots.

    `part` names the evaluator's part of the data. Answers that are not finite are left out of the
    fit; the server does not give them. Raises `CalibrationError`, which names shot and mode, when
    no temperature fits, and what the evaluator raises.
    """
    modes, task_count = evaluator.manifest.batch_norm.allowed, settings.task_count
    total = len(shots) * task_count
    fits: list[TemperatureFit] = []
    for number, shot in enumerate(shots):
        logits, classes = evaluator.logits(
            replace(settings, shot=shot),
            modes,
            planned_tasks=total,
            report=part_of(report, number * task_count, total),
        )
        fits += [_fit(mode, shot, of_mode, classes) for mode, of_mode in logits.items()]
    fits.sort(key=lambda fit: modes.index(fit.rule.batch_norm_mode))  # shots still grow
    calibration = Calibration(
        rules=tuple(fit.rule for fit in fits),
        part=part,
        data_digest=evaluator.dataset.digest,
        way=settings.way,
        task_count=task_count,
        query_count=settings.query_count,
        step_count=evaluator.manifest.inner_loop.step_count,
        seed=settings.seed,
    )
    return calibration, tuple(fits)


def _fit(mode: BatchNormMode, shot: int, logits: Tensor, classes: Tensor) -> TemperatureFit:
    """Fit a temperature to logits `(tasks, queries, way)` of classes `(tasks, queries)`."""
    finite = torch.isfinite(logits).all(dim=-1)
    try:
        if not finite.any():
            raise CalibrationError("no answer is finite")
        temperature = fit_temperature(logits[finite], classes[finite])
    except CalibrationError as error:
        raise CalibrationError(f"{shot}-shot tasks in mode {mode}: {error}") from None
    rule = TemperatureRule(mode, shot, temperature)
    return TemperatureFit(rule, _score(logits, classes), _score(logits / temperature, classes))


def _score(logits: Tensor, classes: Tensor) -> EvaluationResult:
    answers = Answers()
    answers.add(torch.softmax(logits, dim=-1), classes)
    return answers.score(step_count=0, episodes_digest="", adapting_seconds=0.0)
