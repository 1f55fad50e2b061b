from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.learner import Initialization
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import sample_episodes
from kshot.trainer.errors import TrainingError
from kshot.trainer.packaging import draft_manifest
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.recipe import Recipe
from kshot.trainer.task_solver import EvaluationSettings, TaskSolver, build_solver

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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(SETTINGS, step_count=0), "step count is 0, wanted more than 0"),
        (replace(SETTINGS, batch_size=0), "batch size is 0, wanted more than 0"),
        (replace(SETTINGS, learning_rate=0.0), "learning rate is 0.0, wanted more than 0"),
        (replace(SETTINGS, learning_rate=float("nan")), "learning rate is nan, wanted more than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    solve: Solve, wrong: EvaluationSettings, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        solve(wrong)
