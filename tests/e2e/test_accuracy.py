"""The shipped bundles' accuracy, by the trainer's own evaluation and through a running server."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    EvaluationRow,
    builtin_bundle,
    load_bundle,
)
from kshot.client import Client
from kshot.learner import compiler_name, derive_seed
from kshot.trainer.commands.data_parts import read_own_part
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.accuracy_table import measure_plan, plan_table
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.statistics import Interval, accuracy_interval
from kshot.trainer.tasks.episodes import sample_episodes

CPU = torch.device("cpu")
# The tables' tasks are drawn from another seed.
SEED = 1
QUERY_COUNT = 500
BUILTIN = sorted(folder.name for folder in builtin_bundle("omniglot").parents[1].glob("[a-z0-9]*"))
GATES = {
    BatchNormMode.SUPPORT: 0.945,
    BatchNormMode.SUPPORT_AND_QUERY: 0.95,
    BatchNormMode.TRANSDUCTIVE: 0.975,
}


def read_test_classes(bundle: Bundle) -> ImageDataset:
    folder = os.environ.get("KSHOT_DATA")
    if not folder:
        pytest.skip("KSHOT_DATA names no folder with the data sets")
    return read_own_part(bundle, Path(folder), "test")


def tasks_of(row: EvaluationRow) -> tuple[object, ...]:
    return (row.way, row.shot, row.query_count, row.step_count, row.batch_norm_mode)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_the_manifests_table_reaches_the_gates(bundle: Bundle, mode: BatchNormMode) -> None:
    """By the paper's 50 steps; the default number is smaller with one example."""
    rows = (row for row in bundle.manifest.evaluation if row.batch_norm_mode == mode)
    (row,) = (row for row in rows if (row.shot, row.step_count) == (1, 50))

    assert (row.way, row.query_count) == (5, 1)
    assert bundle.manifest.default_step_count(5, 5) < 50
    assert row.task_count >= 1000
    assert row.accuracy >= GATES[mode]


@pytest.fixture(scope="module")
def measured(
    builtin_step: object,  # noqa: ARG001 -- the default bundle's step is compiled already
) -> Callable[[str], Sequence[EvaluationRow]]:
    """Return a function that measures the table of a built-in bundle on other tasks, once.

    It draws as many queries for each row, whatever the way: 100 tasks of 5 classes, 25 of 20.
    """

    @functools.cache
    def measure(name: str) -> Sequence[EvaluationRow]:
        bundle = load_bundle(builtin_bundle(name))
        manifest, dataset = bundle.manifest, read_test_classes(bundle)
        table = replace(
            load_image_recipe(manifest.provenance.recipe).evaluation.table,
            step_count=manifest.inner_loop.step_count,
            task_count=QUERY_COUNT // manifest.evaluation[0].way,
            seed=SEED,
        )
        # Such steps compile in seconds.
        compiled = compiler_name(CPU) is not None
        evaluator = Evaluator.of_bundle(bundle, dataset, CPU, compiled=compiled)
        plan = plan_table(table, manifest)
        found = measure_plan(plan, evaluator)
        assert len(found) == sum(map(len, plan.values())) * len(COMPUTED_MODES)
        return found

    return measure


@pytest.mark.parametrize("name", BUILTIN)
def test_other_tasks_match_the_bundles_table(
    measured: Callable[[str], Sequence[EvaluationRow]], name: str
) -> None:
    """Within both intervals.

    It notices a difference of 1 to 2 points on 5-way Omniglot, of 2 to 6 on 20-way, whose tasks are
    few, and of 5 to 6 on CIFAR-FS, whose tasks differ more.
    """
    found = measured(name)

    told = {tasks_of(row): row for row in load_bundle(builtin_bundle(name)).manifest.evaluation}
    for row in found:
        said = told[tasks_of(row)]
        assert abs(row.accuracy - said.accuracy) <= row.ci95 + said.ci95


@pytest.fixture(scope="module")
def served(client: Client, bundle: Bundle) -> Mapping[BatchNormMode, Interval]:
    """Return what the server answers right in each mode, after the same adaptations.

    Its tasks are those of the measured table.
    """
    dataset = read_test_classes(bundle)
    task_count = QUERY_COUNT // 5
    episodes = sample_episodes(
        dataset, task_count, 5, 1, 1, torch.Generator().manual_seed(derive_seed(SEED))
    )
    correct: dict[BatchNormMode, list[int]] = {mode: [] for mode in COMPUTED_MODES}
    for task in range(task_count):
        episode = episodes[task]
        support, queries = (
            dataset.images[rows, 0].numpy() for rows in (episode.support, episode.queries)
        )
        labels = [str(label) for label in episode.support_classes.tolist()]
        wanted = [str(label) for label in episode.query_classes.tolist()]
        adapted = client.adapt(support, labels, model="omniglot", seed=task)
        for mode, kept in correct.items():
            answer = adapted.predict(queries, batch_norm_mode=mode)
            kept.append(sum(np.array(answer.labels) == np.array(wanted)))
        client.delete(adapted.id)
    return {mode: accuracy_interval(np.array(kept), 5) for mode, kept in correct.items()}


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_the_server_is_as_accurate_as_the_evaluation(
    served: Mapping[BatchNormMode, Interval],
    measured: Callable[[str], Sequence[EvaluationRow]],
    bundle: Bundle,
    mode: BatchNormMode,
) -> None:
    """On the same tasks; the mini-batches differ, so the accuracies agree within the interval."""
    of_server = served[mode]
    kind = (1, bundle.manifest.default_step_count(5, 5), mode)
    rows = measured("omniglot")
    (found,) = (r for r in rows if (r.shot, r.step_count, r.batch_norm_mode) == kind)
    assert (found.way, found.query_count, found.task_count) == (5, 1, QUERY_COUNT // 5)
    assert abs(of_server.mean - found.accuracy) <= max(of_server.half_width, found.ci95)
    (row,) = (r for r in bundle.manifest.evaluation if tasks_of(r) == tasks_of(found))
    assert abs(of_server.mean - row.accuracy) <= of_server.half_width + row.ci95
