"""The shipped bundles' accuracy, by the trainer's own evaluation and through a running server."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import BatchNormMode, Bundle, EvaluationRow, builtin_bundle, load_bundle
from kshot.client import Client
from kshot.learner import derive_seed
from kshot.trainer.commands.options import read_own_part
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.accuracy_table import measure_plan, plan_table
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.statistics import accuracy_interval
from kshot.trainer.tasks.episodes import sample_episodes

CPU = torch.device("cpu")
TASK_COUNT = 200
BUILTIN = sorted(folder.name for folder in builtin_bundle().parents[1].glob("[a-z0-9]*"))
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


@pytest.fixture(scope="module")
def test_classes(bundle: Bundle) -> ImageDataset:
    return read_test_classes(bundle)


@pytest.mark.parametrize("mode", list(BatchNormMode))
def test_the_manifests_table_reaches_the_gates(bundle: Bundle, mode: BatchNormMode) -> None:
    (row,) = (r for r in bundle.manifest.evaluation if (r.shot, r.batch_norm_mode) == (1, mode))

    assert (row.way, row.query_count) == (5, 1)
    assert row.step_count == bundle.manifest.inner_loop.step_count == 50
    assert row.task_count >= 1000
    assert row.accuracy >= GATES[mode]


@pytest.mark.parametrize("name", BUILTIN)
def test_other_tasks_match_the_bundles_table(name: str) -> None:
    """On as many queries for each row, whatever the way: 100 tasks of 5 classes, 25 of 20."""
    bundle = load_bundle(builtin_bundle(name))
    manifest, dataset = bundle.manifest, read_test_classes(bundle)
    table = replace(
        load_image_recipe(manifest.provenance.recipe).evaluation.table,
        step_count=manifest.inner_loop.step_count,
        task_count=500 // manifest.evaluation[0].way,
        seed=1,
    )

    found = measure_plan(plan_table(table, manifest), Evaluator.of_bundle(bundle, dataset, CPU))

    told = {tasks_of(row): row for row in manifest.evaluation}
    assert len(found) == len(table.shots) * len(BatchNormMode)
    for row in found:
        said = told[tasks_of(row)]
        assert abs(row.accuracy - said.accuracy) <= row.ci95 + said.ci95


@pytest.fixture(scope="module")
def evaluated(bundle: Bundle, test_classes: ImageDataset) -> Mapping[BatchNormMode, EvaluationRow]:
    """Return what evaluation gives in each mode, after the same adaptations."""
    table = load_image_recipe(bundle.manifest.provenance.recipe).evaluation.table
    table = replace(table, shots=(1,), query_count=1, task_count=TASK_COUNT, seed=0)
    assert table.step_count == bundle.manifest.inner_loop.step_count
    rows = measure_plan(
        plan_table(table, bundle.manifest), Evaluator.of_bundle(bundle, test_classes, CPU)
    )
    return {row.batch_norm_mode: row for row in rows}


@pytest.mark.parametrize("mode", list(BatchNormMode))
def test_the_server_is_as_accurate_as_the_evaluation(
    client: Client,
    bundle: Bundle,
    test_classes: ImageDataset,
    evaluated: Mapping[BatchNormMode, EvaluationRow],
    mode: BatchNormMode,
) -> None:
    """On the same tasks; the mini-batches differ, so the accuracies agree within the interval."""
    episodes = sample_episodes(
        test_classes, TASK_COUNT, 5, 1, 1, torch.Generator().manual_seed(derive_seed(0))
    )
    correct = []
    for task in range(TASK_COUNT):
        episode = episodes[task]
        support, queries = (
            test_classes.images[rows, 0].numpy() for rows in (episode.support, episode.queries)
        )
        labels = [str(label) for label in episode.support_classes.tolist()]
        answer = client.adapt_and_predict(
            support, labels, queries, model="omniglot", batch_norm_mode=mode, seed=task
        )
        wanted = [str(label) for label in episode.query_classes.tolist()]
        correct.append(sum(np.array(answer.labels) == np.array(wanted)))

    served = accuracy_interval(np.array(correct), 5)
    found = evaluated[mode]
    assert (found.way, found.task_count) == (5, TASK_COUNT)
    assert abs(served.mean - found.accuracy) <= max(served.half_width, found.ci95)
    row = next(
        r
        for r in bundle.manifest.evaluation
        if (r.shot, r.step_count, r.batch_norm_mode) == (1, 50, mode)
    )
    assert abs(served.mean - row.accuracy) <= served.half_width + row.ci95
