from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Head,
    Manifest,
    Preconditioner,
    Scope,
    Weights,
    write_bundle,
)
from kshot.learner import Initialization, build_network, initial_parameters
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episode_file import draw_episodes
from kshot.trainer.tasks.support_flaws import SupportFlaws

CPU = torch.device("cpu")
MODES = COMPUTED_MODES
SETTINGS = EvaluationSettings(
    way=4,
    shot=2,
    query_count=2,
    task_count=23,
    batch_norm_mode=BatchNormMode.SUPPORT,
    step_count=3,
    seed=5,
)
Patterns = Callable[..., ImageDataset]


@pytest.fixture
def manifest(small_recipe: Callable[..., Recipe], patterns: Patterns) -> Manifest:
    return draft_manifest(small_recipe(), patterns())


@pytest.fixture
def initialization(manifest: Manifest) -> Initialization:
    network = build_network(manifest.network, manifest.input.shape, manifest.batch_norm.epsilon)
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(network, manifest.training.way, generator)
    moment = {name: torch.full_like(value, 1e-4) for name, value in parameters.items()}
    return Initialization(network, manifest.training.way, parameters, moment, 100)


@pytest.fixture
def evaluator(manifest: Manifest, initialization: Initialization, patterns: Patterns) -> Evaluator:
    return Evaluator(initialization, manifest, patterns())


def timeless(results: dict[BatchNormMode, EvaluationResult]) -> list[EvaluationResult]:
    return [replace(result, ms_per_task=0) for result in results.values()]


def test_a_seed_names_its_result(evaluator: Evaluator) -> None:
    first, again = (evaluator.evaluate(SETTINGS, MODES) for _ in range(2))
    other_settings = replace(SETTINGS, seed=6)
    other = evaluator.evaluate(other_settings, MODES)

    assert timeless(first) == timeless(again)
    assert timeless(first) != timeless(other)
    for result in first.values():
        assert 0.25 < result.accuracy < 1  # chance is 0.25
        assert 0 < result.ci95 < 0.2
        assert result.ci_method == "95% t-interval over tasks"
        assert 0 <= result.ece <= 1
        assert 0 < result.nll < 3
        assert (result.task_count, result.step_count) == (23, 3)
        assert result.ms_per_task > 0


def test_tasks_together_answer_as_tasks_alone(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32, after 3 steps: probabilities within 1e-5."""
    answers: dict[int, list[torch.Tensor]] = {1: [], 7: []}
    reports: list[tuple[int, int]] = []
    answer = TaskSolver.answer
    for tasks_at_once, kept in answers.items():

        def keep(*arguments: object, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(answer(*arguments))  # type: ignore[arg-type] -- passed on as they came
            return kept[-1]

        with monkeypatch.context() as patched:
            patched.setattr(TaskSolver, "answer", keep)
            patched.setattr(evaluator, "tasks_at_once", tasks_at_once)
            evaluator.evaluate(
                SETTINGS,
                report=lambda done, total: reports.append((done, total)),
            )

    alone, together = (torch.cat(kept) for kept in answers.values())
    assert alone.shape == (23, 8, 4)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert reports[-4:] == [(7, 23), (14, 23), (21, 23), (23, 23)]
    assert reports[:-4] == [(done, 23) for done in range(1, 24)]


def test_modes_share_adaptations(evaluator: Evaluator) -> None:
    together = evaluator.evaluate(SETTINGS, MODES)
    alone = [evaluator.evaluate(SETTINGS, [mode]) for mode in MODES]

    assert timeless(together) == [result for each in alone for result in timeless(each)]


def test_the_order_of_classes_is_irrelevant(
    initialization: Initialization, manifest: Manifest, patterns: Patterns
) -> None:
    """Other tasks are drawn, of the same classes: within both intervals."""
    dataset = patterns()
    order = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    rows = torch.cat([torch.arange(index * 7, index * 7 + 7) for index in order])
    permuted = make_dataset(
        "permuted",
        dataset.images[rows],
        dataset.class_offsets,
        tuple(dataset.class_names[index] for index in order),
    )
    settings = replace(SETTINGS, task_count=100)
    mode = settings.batch_norm_mode
    one, other = (
        Evaluator(initialization, manifest, data).evaluate(settings)[mode]
        for data in (dataset, permuted)
    )

    assert abs(one.accuracy - other.accuracy) < one.ci95 + other.ci95


def test_an_untrained_zero_head_answers_by_chance(evaluator: Evaluator) -> None:
    """A learning rate of almost nothing leaves the zero head; ties go to class 0, one in four."""
    settings = replace(
        SETTINGS, learning_rate=1e-30, head=Head.ZERO, preconditioner=Preconditioner.SGD
    )

    for result in evaluator.evaluate(settings, MODES).values():
        assert result.accuracy == pytest.approx(0.25, abs=0.1)
        assert result.nll == pytest.approx(1.386, abs=0.01)


def test_a_bundle_is_its_initialization(
    initialization: Initialization,
    manifest: Manifest,
    evaluator: Evaluator,
    tmp_path: Path,
) -> None:
    weights = Weights(
        {name: value.numpy() for name, value in initialization.parameters.items()},
        {name: value.numpy() for name, value in initialization.second_moment.items()},
        initialization.step,
    )
    bundle = write_bundle(tmp_path, manifest, weights, dict.fromkeys(MODES, b"template"), "card")
    reports: list[tuple[int, int]] = []

    of_bundle = Evaluator.of_bundle(bundle, evaluator.dataset, CPU)
    results = of_bundle.evaluate(SETTINGS, report=lambda done, total: reports.append((done, total)))

    assert list(results) == [SETTINGS.batch_norm_mode]
    assert timeless(results) == timeless(evaluator.evaluate(SETTINGS))
    assert reports[-1] == (23, 23)
    with pytest.raises(DataError, match="way: expected at most the 8 classes"):
        of_bundle.evaluate(replace(SETTINGS, way=9))

    odd = replace(weights, parameters={"odd": weights.parameters["head.bias"]})
    odd = replace(odd, second_moment=odd.parameters)
    unfit = write_bundle(tmp_path / "odd", manifest, odd, dict.fromkeys(MODES, b"template"), "card")
    with pytest.raises(TrainingError, match=r"cannot be used: parameter head\.bias is missing"):
        Evaluator.of_bundle(unfit, evaluator.dataset, CPU)


def test_given_episodes_are_solved(evaluator: Evaluator) -> None:
    dataset = evaluator.dataset
    drawn = draw_episodes(dataset, SETTINGS.task_shape)
    other = draw_episodes(dataset, replace(SETTINGS.task_shape, seed=8))
    own = evaluator.evaluate(SETTINGS, MODES)
    given, others = (
        evaluator.evaluate(SETTINGS, MODES, episodes=episodes) for episodes in (drawn, other)
    )

    assert timeless(given) == timeless(own)
    assert {result.episodes_digest for result in own.values()} == {drawn.digest}
    assert {result.episodes_digest for result in others.values()} == {other.digest}
    assert timeless(others) != timeless(own)


def test_a_result_counts_right_answers_by_task(evaluator: Evaluator) -> None:
    for result in evaluator.evaluate(SETTINGS, MODES).values():
        assert len(result.correct_counts) == 23
        assert result.query_count == 8
        assert result.accuracy == pytest.approx(sum(result.task_accuracies) / 23)


def test_step_counts_share_an_adaptation(evaluator: Evaluator) -> None:
    evaluator.tasks_at_once = 5
    (along,) = evaluator.compare([SETTINGS], MODES, step_counts=[0, 1, 3])

    for step_count, results in along.items():
        settings = replace(SETTINGS, step_count=step_count)
        alone = evaluator.evaluate(settings, MODES)
        assert timeless(results) == timeless(alone)
    times = [along[count][BatchNormMode.SUPPORT].ms_per_task for count in (0, 3)]
    assert times[0] < times[1]


def test_unknown_queries_leave_the_accuracy(evaluator: Evaluator) -> None:
    """The patterns are easy: an untrained network adapted to them tells strangers somewhat."""
    settings = replace(SETTINGS, unknown=True, learning_rate=0.01)
    plain = replace(settings, unknown=False)
    results = evaluator.evaluate(settings, MODES)
    without = evaluator.evaluate(plain, MODES)

    for mode, result in results.items():
        found = result.unknown
        assert found is not None
        assert (found.known_count, found.unknown_count) == (23 * 8, 23 * 8)
        assert found.auroc - found.ci95 > 0.5
        assert found.fpr_at_95_tpr < 0.95
        assert result.correct_counts == without[mode].correct_counts
        assert without[mode].unknown is None


def test_wrong_labels_cost_accuracy(evaluator: Evaluator) -> None:
    mode = SETTINGS.batch_norm_mode
    clean = replace(SETTINGS, head=Head.PROTOTYPE, step_count=0)
    wrong = replace(clean, flaws=SupportFlaws(wrong_labels=1.0))
    results = [evaluator.evaluate(settings)[mode] for settings in (clean, wrong)]

    assert results[0].episodes_digest == results[1].episodes_digest
    difference = paired_difference(results[0].task_accuracies, results[1].task_accuracies)
    assert difference.mean - difference.half_width > 0.3


def test_diverged_adaptations_are_wrong(evaluator: Evaluator) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, unknown=True)
    mode = settings.batch_norm_mode

    result = evaluator.evaluate(settings)[mode]

    assert result.diverged_count == 23
    assert result.accuracy == 0
    assert result.nll == pytest.approx(1.3863, abs=1e-3)  # ln 4


def test_variants_solve_the_same_tasks_in_turns(evaluator: Evaluator) -> None:
    """A variant's results do not depend on its company, and NIL has one number of steps."""
    variants = [
        replace(SETTINGS, baseline=Baseline.NIL),
        SETTINGS,
        replace(SETTINGS, scope=Scope.HEAD),
    ]
    reports: list[tuple[int, int]] = []
    compared = evaluator.compare(
        variants,
        MODES,
        step_counts=[0, 3],
        report=lambda done, total: reports.append((done, total)),
    )

    assert [list(along) for along in compared] == [[0], [0, 3], [0, 3]]
    assert reports == [(done, 69) for done in range(1, 70)]
    own = evaluator.compare(variants, MODES)
    assert [list(along) for along in own] == [[0], [3], [3]]
    for together, alone in zip(compared, own, strict=True):
        step_count, results = alone.popitem()
        assert timeless(together[step_count]) == timeless(results)


def test_logits_are_the_networks_own(evaluator: Evaluator) -> None:
    logits, classes = evaluator.logits(SETTINGS, MODES)

    assert list(logits) == list(MODES)
    assert classes.shape == (23, 8)
    for mode, result in evaluator.evaluate(SETTINGS, MODES).items():
        assert logits[mode].shape == (23, 8, 4)
        correct = (logits[mode].argmax(dim=-1) == classes).sum(dim=1)
        assert tuple(correct.tolist()) == result.correct_counts
