from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Weights, write_bundle
from kshot.learner import Initialization, build_network, initial_parameters
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluate.evaluation import (
    EvaluationResult,
    evaluate,
    evaluate_along,
    evaluate_bundle,
)
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.solver import EvaluationSettings, TaskSolver, build_solver
from kshot.trainer.evaluate.tasks import prepare_tasks
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episode_file import draw_episodes
from kshot.trainer.tasks.support_flaws import SupportFlaws

CPU = torch.device("cpu")
MODES = tuple(BatchNormMode)
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
def solve(manifest: Manifest, initialization: Initialization) -> Callable[..., TaskSolver]:
    def build(dataset: ImageDataset, settings: EvaluationSettings = SETTINGS) -> TaskSolver:
        pixels = DevicePixels.load(dataset, manifest.input, CPU)
        return build_solver(initialization, manifest, pixels, settings)

    return build


def timeless(results: dict[BatchNormMode, EvaluationResult]) -> list[EvaluationResult]:
    return [replace(result, ms_per_task=0) for result in results.values()]


def test_a_seed_names_its_result(solve: Callable[..., TaskSolver], patterns: Patterns) -> None:
    dataset = patterns()
    first, again = (evaluate(solve(dataset), dataset, SETTINGS, MODES) for _ in range(2))
    other_settings = replace(SETTINGS, seed=6)
    other = evaluate(solve(dataset, other_settings), dataset, other_settings, MODES)

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
    solve: Callable[..., TaskSolver], patterns: Patterns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32, after 3 steps: probabilities within 1e-5."""
    dataset = patterns()
    answers: dict[int, list[torch.Tensor]] = {1: [], 7: []}
    reports: list[tuple[int, int]] = []
    answer = TaskSolver.answer
    for tasks_at_once, kept in answers.items():

        def keep(*arguments: object, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(answer(*arguments))  # type: ignore[arg-type] -- passed on as they came
            return kept[-1]

        with monkeypatch.context() as patched:
            patched.setattr(TaskSolver, "answer", keep)
            evaluate(
                solve(dataset),
                dataset,
                SETTINGS,
                [BatchNormMode.SUPPORT],
                tasks_at_once=tasks_at_once,
                report=lambda done, total: reports.append((done, total)),
            )

    alone, together = (torch.cat(kept) for kept in answers.values())
    assert alone.shape == (23, 8, 4)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert reports[-4:] == [(7, 23), (14, 23), (21, 23), (23, 23)]
    assert reports[:-4] == [(done, 23) for done in range(1, 24)]


def test_the_modes_are_measured_on_the_same_adaptations(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    together = evaluate(solve(dataset), dataset, SETTINGS, MODES)
    alone = [evaluate(solve(dataset), dataset, SETTINGS, [mode]) for mode in MODES]

    assert timeless(together) == [result for each in alone for result in timeless(each)]


def test_the_order_in_which_classes_are_kept_is_irrelevant(
    solve: Callable[..., TaskSolver], patterns: Patterns
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
        evaluate(solve(data, settings), data, settings, [mode])[mode]
        for data in (dataset, permuted)
    )

    assert abs(one.accuracy - other.accuracy) < one.ci95 + other.ci95


def test_no_steps_of_a_head_that_knows_nothing_is_chance(
    initialization: Initialization, manifest: Manifest, patterns: Patterns
) -> None:
    """A learning rate of almost nothing leaves the zero head; ties go to class 0, one in four."""
    dataset = patterns()
    settings = replace(
        SETTINGS, learning_rate=1e-30, head=Head.ZERO, preconditioner=Preconditioner.SGD
    )
    pixels = DevicePixels.load(dataset, manifest.input, CPU)
    solver = build_solver(initialization, manifest, pixels, settings)

    for result in evaluate(solver, dataset, settings, MODES).values():
        assert result.accuracy == pytest.approx(0.25, abs=0.1)
        assert result.nll == pytest.approx(1.386, abs=0.01)


def test_a_bundle_is_evaluated_as_its_initialization(
    initialization: Initialization,
    manifest: Manifest,
    solve: Callable[..., TaskSolver],
    patterns: Patterns,
    tmp_path: Path,
) -> None:
    dataset = patterns()
    weights = Weights(
        {name: value.numpy() for name, value in initialization.parameters.items()},
        {name: value.numpy() for name, value in initialization.second_moment.items()},
        initialization.step,
    )
    bundle = write_bundle(tmp_path, manifest, weights, dict.fromkeys(MODES, b"template"), "card")
    reports: list[tuple[int, int]] = []

    result = evaluate_bundle(
        bundle,
        dataset,
        SETTINGS,
        device=CPU,
        report=lambda done, total: reports.append((done, total)),
    )

    mode = SETTINGS.batch_norm_mode
    wanted = evaluate(solve(dataset), dataset, SETTINGS, [mode])
    assert timeless({mode: result}) == timeless(wanted)
    assert reports[-1] == (23, 23)
    with pytest.raises(DataError, match="way is 9, wanted at most the 8 classes"):
        evaluate_bundle(bundle, dataset, replace(SETTINGS, way=9), device=CPU)

    odd = replace(weights, parameters={"odd": weights.parameters["head.bias"]})
    odd = replace(odd, second_moment=odd.parameters)
    unfit = write_bundle(tmp_path / "odd", manifest, odd, dict.fromkeys(MODES, b"template"), "card")
    with pytest.raises(TrainingError, match=r"cannot be used: parameter head\.bias is missing"):
        evaluate_bundle(unfit, dataset, SETTINGS, device=CPU)


def test_the_episodes_that_are_given_are_solved(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    drawn = draw_episodes(dataset, SETTINGS.task_shape)
    other = draw_episodes(dataset, replace(SETTINGS.task_shape, seed=8))
    own = evaluate(solve(dataset), dataset, SETTINGS, MODES)
    given, others = (
        evaluate(solve(dataset), dataset, SETTINGS, MODES, episodes=episodes)
        for episodes in (drawn, other)
    )

    assert timeless(given) == timeless(own)
    assert {result.episodes_digest for result in own.values()} == {drawn.digest}
    assert {result.episodes_digest for result in others.values()} == {other.digest}
    assert timeless(others) != timeless(own)


def test_a_result_keeps_the_right_answers_of_each_task(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    for result in evaluate(solve(dataset), dataset, SETTINGS, MODES).values():
        assert len(result.correct_counts) == 23
        assert result.query_count == 8
        assert result.accuracy == pytest.approx(sum(result.task_accuracies) / 23)


def test_numbers_of_steps_along_one_adaptation_are_those_of_each_alone(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    tasks = prepare_tasks(dataset, SETTINGS)
    along = evaluate_along(solve(dataset), tasks, [0, 1, 3], MODES, tasks_at_once=5)

    for step_count, results in along.items():
        settings = replace(SETTINGS, step_count=step_count)
        alone = evaluate(solve(dataset, settings), dataset, settings, MODES, tasks_at_once=5)
        assert timeless(results) == timeless(alone)
    times = [along[count][BatchNormMode.SUPPORT].ms_per_task for count in (0, 3)]
    assert times[0] < times[1]


def test_queries_of_unknown_classes_leave_the_accuracy_as_it_is(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    """The patterns are easy: an untrained network adapted to them tells strangers somewhat."""
    dataset = patterns()
    settings = replace(SETTINGS, unknown=True, learning_rate=0.01)
    plain = replace(settings, unknown=False)
    results = evaluate(solve(dataset, settings), dataset, settings, MODES)
    without = evaluate(solve(dataset, plain), dataset, plain, MODES)

    for mode, result in results.items():
        found = result.unknown
        assert found is not None
        assert (found.known_count, found.unknown_count) == (23 * 8, 23 * 8)
        assert found.auroc - found.ci95 > 0.5
        assert found.fpr_at_95_tpr < 0.95
        assert result.correct_counts == without[mode].correct_counts
        assert without[mode].unknown is None


def test_wrong_labels_cost_accuracy_on_the_same_tasks(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    mode = SETTINGS.batch_norm_mode
    clean = replace(SETTINGS, head=Head.PROTOTYPE, step_count=0)
    wrong = replace(clean, flaws=SupportFlaws(wrong_labels=1.0))
    results = [
        evaluate(solve(dataset, settings), dataset, settings, [mode])[mode]
        for settings in (clean, wrong)
    ]

    assert results[0].episodes_digest == results[1].episodes_digest
    difference = paired_difference(results[0].task_accuracies, results[1].task_accuracies)
    assert difference.mean - difference.half_width > 0.3


def test_adaptations_that_diverge_count_as_wrong(
    solve: Callable[..., TaskSolver], patterns: Patterns
) -> None:
    dataset = patterns()
    settings = replace(SETTINGS, learning_rate=1e30, unknown=True)
    mode = settings.batch_norm_mode

    result = evaluate(solve(dataset, settings), dataset, settings, [mode])[mode]

    assert result.diverged_count == 23
    assert result.accuracy == 0
    assert result.nll == pytest.approx(1.3863, abs=1e-3)  # ln 4
