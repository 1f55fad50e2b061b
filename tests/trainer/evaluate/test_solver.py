import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.learner import Initialization, cycling_indices
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver, build_solver
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import sample_episodes

SETTINGS = EvaluationSettings(6, 1, 1, 1, BatchNormMode.SUPPORT)
Patterns = Callable[..., ImageDataset]
Solve = Callable[[EvaluationSettings], TaskSolver]


@pytest.fixture
def manifest(small_recipe: Callable[..., Recipe], patterns: Patterns) -> Manifest:
    return draft_manifest(small_recipe(), patterns())


@pytest.fixture
def solve(
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> Solve:
    pixels = DevicePixels.load(patterns(), manifest.input, torch.device("cpu"))
    initialization = make_initialization(manifest)
    return lambda settings: build_solver(initialization, manifest, pixels, settings)


def test_settings_left_out_are_the_bundles(manifest: Manifest, solve: Solve) -> None:
    solver = solve(SETTINGS)

    inner = manifest.inner_loop
    assert (solver.step_count, solver.batch_size) == (inner.step_count, 10)
    assert solver.rule.learning_rate == inner.learning_rate
    assert solver.rule.preconditioner is inner.preconditioner
    assert solver.head is manifest.head.default


def test_settings_that_are_named_hold(solve: Solve) -> None:
    solver = solve(
        replace(
            SETTINGS,
            step_count=4,
            batch_size=3,
            learning_rate=0.5,
            preconditioner=Preconditioner.FRESH,
            head=Head.PROTOTYPE,
        )
    )

    assert (solver.step_count, solver.batch_size, solver.rule.learning_rate) == (4, 3, 0.5)
    assert solver.rule.preconditioner is Preconditioner.FRESH
    assert solver.head is Head.PROTOTYPE


@pytest.mark.parametrize(("scope", "body_moves"), [(Scope.HEAD, False), (Scope.ALL, True)])
def test_the_scope_says_what_moves(
    solve: Solve, patterns: Patterns, scope: Scope, body_moves: bool
) -> None:
    solver = solve(replace(SETTINGS, scope=scope, step_count=2))
    episodes = sample_episodes(patterns(), 2, 6, 1, 1, torch.Generator().manual_seed(0))

    adapted = solver.adapt(episodes, 0)

    start = solver.initialization.parameters["block1.convolution.weight"]
    for task in range(2):
        body = adapted["block1.convolution.weight"][task]
        assert torch.equal(body, start) is not body_moves
    assert not torch.equal(adapted["head.weight"][0], adapted["head.weight"][1])


def test_balanced_classes_adapt_otherwise_where_classes_are_uneven(
    solve: Solve, patterns: Patterns
) -> None:
    episodes = sample_episodes(patterns(), 1, 3, 2, 1, torch.Generator().manual_seed(0))
    uneven = replace(episodes, support_classes=torch.tensor([[0, 1, 2, 2, 2, 2]]))
    losses = [
        solve(
            replace(SETTINGS, way=3, shot=2, step_count=2, batch_size=5, balance_classes=balanced)
        ).adapt(uneven, 0)
        for balanced in (False, True)
    ]

    assert any(not losses[0][name].equal(losses[1][name]) for name in losses[0])


@pytest.mark.parametrize(("example_count", "batch_size"), [(5, 5), (25, 15), (3, 10), (7, 2)])
def test_fewer_steps_take_the_first_batches(example_count: int, batch_size: int) -> None:
    most = cycling_indices(example_count, batch_size, 50, seed=3)

    for step_count in (0, 1, 2, 5, 10, 20, 49):
        fewer = cycling_indices(example_count, batch_size, step_count, seed=3)
        assert torch.equal(fewer, most[:step_count])


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
@pytest.mark.parametrize("head", [Head.TRAINED, Head.PROTOTYPE])
def test_a_trajectory_equals_adaptations(
    solve: Solve, patterns: Patterns, preconditioner: Preconditioner, head: Head
) -> None:
    """Bit for bit, so that a sweep need not adapt again for every number of steps."""
    settings = replace(SETTINGS, preconditioner=preconditioner, head=head, learning_rate=0.01)
    step_counts = [0, 1, 3, 7]
    episodes = sample_episodes(patterns(), 2, 6, 1, 1, torch.Generator().manual_seed(0))

    trajectory = solve(settings).trajectory(episodes, 4, step_counts)

    before = None
    for step_count, passed in zip(step_counts, list(trajectory), strict=True):
        adapted = solve(replace(settings, step_count=step_count)).adapt(episodes, 4)
        assert all(torch.equal(passed[name], adapted[name]) for name in adapted)
        assert before is None or not torch.equal(passed["head.bias"], before)
        before = passed["head.bias"]


def test_no_step_leaves_the_start_as_it_is(solve: Solve, patterns: Patterns) -> None:
    solver = solve(replace(SETTINGS, step_count=0, way=3))
    episodes = sample_episodes(patterns(), 2, 3, 1, 1, torch.Generator().manual_seed(0))

    adapted = solver.adapt(episodes, 0)

    for name, start in solver.initialization.parameters.items():
        assert all(torch.equal(value, start) for value in adapted[name])


def test_baselines_decide_what_they_are(manifest: Manifest, solve: Solve) -> None:
    anil = solve(replace(SETTINGS, baseline=Baseline.ANIL))
    prototype = solve(replace(SETTINGS, baseline=Baseline.PROTOTYPE))

    assert anil.scope is Scope.HEAD
    assert (anil.step_count, anil.head) == (manifest.inner_loop.step_count, manifest.head.default)
    assert (prototype.step_count, prototype.head) == (0, Head.PROTOTYPE)


def test_weights_decay_as_the_bundle_says(
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> None:
    decaying = replace(manifest, inner_loop=replace(manifest.inner_loop, weight_decay_rate=0.5))
    pixels = DevicePixels.load(patterns(), manifest.input, torch.device("cpu"))
    initialization = make_initialization(manifest)

    for wanted, of_bundle in ((1.0, manifest), (0.5, decaying)):
        solver = build_solver(initialization, of_bundle, pixels, SETTINGS)
        assert solver.rule.weight_decay_rate == wanted


@pytest.mark.parametrize(
    ("mode", "shot", "temperature"),
    [
        (BatchNormMode.SUPPORT, 1, 1.5),
        (BatchNormMode.SUPPORT, 3, 1.5 * 2 ** math.log(3, 5)),
        (BatchNormMode.TRANSDUCTIVE, 1, 0.5),
        (BatchNormMode.SUPPORT_AND_QUERY, 3, 1.0),
    ],
)
def test_answers_are_calibrated(
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    calibrated: Callable[[Manifest], Manifest],
    patterns: Patterns,
    mode: BatchNormMode,
    shot: int,
    temperature: float,
) -> None:
    pixels = DevicePixels.load(patterns(), manifest.input, torch.device("cpu"))
    initialization, of_bundle = make_initialization(manifest), calibrated(manifest)
    settings = replace(SETTINGS, way=4, shot=shot, step_count=2, batch_norm_mode=mode)
    episodes = sample_episodes(patterns(), 3, 4, shot, 2, torch.Generator().manual_seed(0))

    answers = []
    for wanted in (settings, replace(settings, calibrated=False)):
        solver = build_solver(initialization, of_bundle, pixels, wanted)
        adapted = solver.adapt(episodes, 0)
        answers.append(solver.answer(adapted, episodes, mode))
    logits = solver.logits(adapted, episodes, mode)

    torch.testing.assert_close(answers[0], torch.softmax(logits / temperature, dim=-1))
    assert torch.equal(answers[1], torch.softmax(logits, dim=-1))
    assert settings.temperature(of_bundle) == pytest.approx(temperature)
    assert replace(settings, calibrated=False).temperature(of_bundle) == 1
    assert replace(settings, baseline=Baseline.NIL).temperature(of_bundle) == 1
    assert settings.temperature(manifest) == 1
