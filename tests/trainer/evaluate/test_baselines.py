from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kshot.bundle import COMPUTED_MODES, BatchNormMode, Manifest
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.baselines import NilSolver
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import EpisodeBatch, sample_episodes

Patterns = Callable[..., ImageDataset]
WAY, SHOT = 4, 2


@pytest.fixture
def solver(
    small_recipe: Callable[..., Recipe],
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> NilSolver:
    manifest = draft_manifest(small_recipe(), patterns())
    pixels = DevicePixels.load(patterns(), manifest.input, torch.device("cpu"))
    return NilSolver(make_initialization(manifest), pixels, WAY)


@pytest.fixture
def episodes(patterns: Patterns) -> EpisodeBatch:
    return sample_episodes(patterns(), 3, WAY, SHOT, 2, torch.Generator().manual_seed(0))


def answer(solver: NilSolver, episodes: EpisodeBatch, mode: BatchNormMode) -> torch.Tensor:
    (parameters,) = solver.trajectory(episodes, 0, [0])
    return solver.answer(parameters, episodes, mode)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_labels_are_weighted_by_the_softmax_of_cosines(
    solver: NilSolver, episodes: EpisodeBatch, mode: BatchNormMode
) -> None:
    """One query after another, by the definition: within 1e-6."""
    probabilities = answer(solver, episodes, mode)

    network = solver.initialization.network
    parameters = {n: v.unsqueeze(0) for n, v in solver.initialization.parameters.items()}
    for task in range(3):
        support = solver.pixels.take(episodes.support[task])[None]
        queries = solver.pixels.take(episodes.queries[task])[None]
        known, statistics = network.features(parameters, support, None)
        for number in range(queries.shape[1]):
            if mode is BatchNormMode.TRANSDUCTIVE:
                asked = network.features(parameters, queries, None)[0][0, number]
            elif mode is BatchNormMode.SUPPORT:
                asked = network.features(parameters, queries, statistics)[0][0, number]
            else:
                joined = torch.cat([support, queries[:, number : number + 1]], dim=1)
                both, _ = network.features(parameters, joined, None)
                known, asked = both[:, :-1], both[0, -1]
            weights = torch.softmax(functional.cosine_similarity(asked[None], known[0]), dim=0)
            wanted = torch.zeros(WAY).index_add(0, episodes.support_classes[task], weights)
            torch.testing.assert_close(probabilities[task, number], wanted, atol=1e-6, rtol=0)


def test_nil_tells_patterns_apart(solver: NilSolver, episodes: EpisodeBatch) -> None:
    probabilities = answer(solver, episodes, BatchNormMode.SUPPORT)

    assert probabilities.shape == (3, 8, WAY)
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(3, 8))
    right = probabilities.argmax(dim=2) == episodes.query_classes
    assert right.float().mean() > 0.5  # chance is 0.25


@pytest.mark.parametrize("mode", [BatchNormMode.SUPPORT, BatchNormMode.SUPPORT_AND_QUERY])
def test_an_answer_ignores_other_queries(
    solver: NilSolver, episodes: EpisodeBatch, mode: BatchNormMode
) -> None:
    one = replace(episodes, queries=episodes.queries[:, :1])

    alone, among = (answer(solver, given, mode) for given in (one, episodes))

    torch.testing.assert_close(alone, among[:, :1], atol=1e-6, rtol=0)


def test_nothing_is_adapted(solver: NilSolver, episodes: EpisodeBatch) -> None:
    for parameters in solver.trajectory(episodes, 0, [0, 5]):
        for name, value in solver.initialization.parameters.items():
            assert torch.equal(parameters[name], value[None])
