from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot.bundle import COMPUTED_MODES, BatchNormMode, Calibration, Manifest
from kshot.learner import Initialization
from kshot.trainer.bundling import calibration as module
from kshot.trainer.bundling.calibration import (
    TemperatureFit,
    check_tasks,
    fit_calibration,
)
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import CalibrationError, DataError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver
from kshot.trainer.recipe.recipe import Recipe

SETTINGS, SHOTS = EvaluationSettings(3, 1, 2, 12, BatchNormMode.SUPPORT, seed=4), (1, 3)
Patterns = Callable[..., ImageDataset]
Fitted = tuple[Calibration, tuple[TemperatureFit, ...]]


@pytest.fixture
def manifest(small_recipe: Callable[..., Recipe], patterns: Patterns) -> Manifest:
    return draft_manifest(small_recipe(), patterns())


@pytest.fixture
def fit(
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> Callable[..., Fitted]:
    evaluator = Evaluator(make_initialization(manifest), manifest, patterns())
    return lambda **more: fit_calibration(SETTINGS, SHOTS, "val", evaluator, **more)


def test_every_mode_and_shot_gets_a_temperature(
    fit: Callable[..., Fitted], manifest: Manifest, patterns: Patterns
) -> None:
    reports: list[tuple[int, int]] = []
    calibration, fits = fit(report=lambda done, total: reports.append((done, total)))

    assert reports == [(done, 24) for done in range(1, 25)]
    assert [fit.rule for fit in fits] == list(calibration.rules)
    assert [(rule.batch_norm_mode, rule.shot) for rule in calibration.rules] == [
        (mode, shot) for mode in manifest.batch_norm.allowed for shot in (1, 3)
    ]
    assert len({rule.temperature for rule in calibration.rules}) == 6
    assert replace(calibration, rules=()) == Calibration(
        rules=(),
        part="val",
        data_digest=patterns().digest,
        way=3,
        task_count=12,
        query_count=2,
        step_count=manifest.inner_loop.step_count,
        seed=4,
    )
    assert fit() == (calibration, fits)


def test_an_evaluation_repeats_the_fit(
    fit: Callable[..., Fitted],
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> None:
    """Without the temperature and with it; the loss is smaller with it."""
    calibration, fits = fit()
    of_bundle = replace(manifest, calibration=calibration)
    evaluator = Evaluator(make_initialization(manifest), of_bundle, patterns())
    timeless: dict[str, Any] = {"ms_per_task": 0, "step_count": 0, "episodes_digest": ""}
    modes = COMPUTED_MODES
    evaluated = {
        (shot, calibrated): evaluator.evaluate(
            replace(SETTINGS, shot=shot, calibrated=calibrated), modes
        )
        for shot in SHOTS
        for calibrated in (True, False)
    }
    for found in fits:
        mode, shot = found.rule.batch_norm_mode, int(found.rule.shot)
        after, before = (evaluated[shot, calibrated][mode] for calibrated in (True, False))

        assert replace(found.after, **timeless) == replace(after, **timeless)
        assert replace(found.before, **timeless) == replace(before, **timeless)
        assert found.before.accuracy == found.after.accuracy
        assert found.after.nll < found.before.nll
        assert found.after.diverged_count == 0


def test_answers_that_are_not_finite_are_ignored(
    fit: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = fit()
    own_logits = TaskSolver.logits
    calls = []

    def logits(*arguments: object) -> Tensor:
        calls.append(arguments)
        found = own_logits(*arguments)  # type: ignore[arg-type] -- passed on as they came
        return found.fill_(torch.nan) if len(calls) <= 3 else found

    monkeypatch.setattr(TaskSolver, "logits", logits)
    calibration, fits = fit()

    assert [found.after.diverged_count for found in fits] == [1, 0] * 3
    assert calibration.rules[1] == wanted.rules[1]
    assert calibration.rules[0].temperature != wanted.rules[0].temperature
    monkeypatch.setattr(TaskSolver, "logits", lambda *_: torch.full((1, 6, 3), torch.inf))
    with pytest.raises(CalibrationError, match="no answer is finite"):
        fit()


def test_a_failed_fit_names_shot_and_mode(
    fit: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(_self: object, _parameters: object, _some: object, mode: BatchNormMode) -> Tensor:
        classes = torch.arange(3).repeat_interleave(2)
        spread = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [-1.0]])
        right = torch.nn.functional.one_hot(classes, 3).float()[None]
        return right if mode is BatchNormMode.SUPPORT else right * spread

    monkeypatch.setattr(TaskSolver, "logits", logits)

    with pytest.raises(CalibrationError) as caught:
        fit()

    assert str(caught.value).startswith("1-shot tasks in mode support: no temperature down to")
    assert "72 of 72 answers are right; use more" in str(caught.value)


def test_tasks_need_enough_images_and_memory(
    manifest: Manifest, patterns: Patterns, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tasks(SETTINGS, SHOTS, manifest, patterns(class_count=3, image_count=5))

    with pytest.raises(DataError, match="3 support and 2 query images"):
        check_tasks(SETTINGS, SHOTS, manifest, patterns(image_count=4))
    monkeypatch.setattr(module, "available_bytes", lambda: 12 * 2 * 9 * 60 - 1)
    with pytest.raises(
        CalibrationError, match="need 12960 bytes of memory, but 12959 are available"
    ):
        check_tasks(SETTINGS, SHOTS, manifest, patterns())
    monkeypatch.setattr(module, "available_bytes", lambda: 12960)
    check_tasks(SETTINGS, SHOTS, manifest, patterns())
