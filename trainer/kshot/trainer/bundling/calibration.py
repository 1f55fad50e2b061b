"""The temperatures of a bundle, fitted to answers to tasks that are adapted as in service."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot.bundle import Calibration, Manifest, TemperatureRule
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
class CalibrationTasks:
    """The tasks that temperatures are fitted on: `task_count` for each of the growing `shots`.

    They are drawn from `seed` out of a part of the bundle's data; `query_count` is per class.
    """

    part: str
    way: int
    shots: tuple[int, ...]
    task_count: int
    query_count: int
    seed: int


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and the accuracy and calibration of the answers that it was fitted to.

    `kshot evaluate` gives the same numbers for these tasks; `uncalibrated` ones are without the
    temperature. `diverged_count` tasks had answers that are not finite.
    """

    rule: TemperatureRule
    accuracy: float
    ece: float
    nll: float
    uncalibrated_ece: float
    uncalibrated_nll: float
    diverged_count: int


def check_tasks(tasks: CalibrationTasks, manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise `DataError` when the data set is too small, `CalibrationError` when memory is."""
    way = tasks.way
    for shot in tasks.shots:
        check_episodes(dataset, way, shot, tasks.query_count)
    logit_count = tasks.task_count * tasks.query_count * way * way  # of one mode
    needed = logit_count * (KEPT_BYTES * len(manifest.batch_norm.allowed) + FITTED_BYTES)
    available = available_bytes()
    if available is not None and needed > available:
        raise CalibrationError(
            f"the answers to {tasks.task_count} tasks with {tasks.query_count} queries per class "
            f"need {needed} bytes of memory, but {available} are available; use fewer tasks or "
            "queries"
        )


def fit_calibration(
    tasks: CalibrationTasks,
    evaluator: Evaluator,
    report: Report = lambda _done, _total: None,
) -> tuple[Calibration, tuple[TemperatureFit, ...]]:
    """Fit a temperature for each allowed batch-norm mode and shot, adapting by the defaults.

    Answers that are not finite are left out of the fit; the server does not give them. Raises
    `CalibrationError`, which names shot and mode, where no temperature fits, and what the
    evaluator raises.
    """
    manifest, total = evaluator.manifest, len(tasks.shots) * tasks.task_count
    modes = manifest.batch_norm.allowed
    fits: list[TemperatureFit] = []
    for done, shot in zip(range(0, total, tasks.task_count), tasks.shots, strict=True):
        logits, classes = evaluator.logits(
            _settings(tasks, shot, manifest),
            modes,
            planned_tasks=total,
            report=part_of(report, done, total),
        )
        fits += [
            _fit(TemperatureRule(mode, shot, 1.0), of_mode, classes)
            for mode, of_mode in logits.items()
        ]
    fits.sort(key=lambda fit: modes.index(fit.rule.batch_norm_mode))  # shots still grow
    calibration = Calibration(
        rules=tuple(fit.rule for fit in fits),
        part=tasks.part,
        data_digest=evaluator.dataset.digest,
        way=tasks.way,
        task_count=tasks.task_count,
        query_count=tasks.query_count,
        step_count=manifest.inner_loop.step_count,
        seed=tasks.seed,
    )
    return calibration, tuple(fits)


def _settings(tasks: CalibrationTasks, shot: int, manifest: Manifest) -> EvaluationSettings:
    return EvaluationSettings(
        way=tasks.way,
        shot=shot,
        query_count=tasks.query_count,
        task_count=tasks.task_count,
        batch_norm_mode=manifest.batch_norm.default,
        seed=tasks.seed,
    )


def _fit(rule: TemperatureRule, logits: Tensor, classes: Tensor) -> TemperatureFit:
    """Fit a rule's temperature to logits `(tasks, queries, way)` of classes `(tasks, queries)`."""
    finite = torch.isfinite(logits).all(dim=-1)
    try:
        if not finite.any():
            raise CalibrationError("no answer is finite")
        temperature = fit_temperature(logits[finite], classes[finite])
    except CalibrationError as error:
        shot, mode = rule.shot, rule.batch_norm_mode
        raise CalibrationError(f"{shot:g}-shot tasks in mode {mode}: {error}") from None
    before, after = _score(logits, classes), _score(logits / temperature, classes)
    return TemperatureFit(
        rule=replace(rule, temperature=temperature),
        accuracy=after.accuracy,
        ece=after.ece,
        nll=after.nll,
        uncalibrated_ece=before.ece,
        uncalibrated_nll=before.nll,
        diverged_count=after.diverged_count,
    )


def _score(logits: Tensor, classes: Tensor) -> EvaluationResult:
    answers = Answers()
    answers.add(torch.softmax(logits, dim=-1), classes)
    return answers.score(step_count=0, episodes_digest="", adapting_seconds=0.0)
