from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import BatchNormMode, EvaluationRow, Manifest
from kshot.trainer.card import model_card
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.packaging import draft_manifest
from kshot.trainer.recipe import Recipe


@pytest.fixture
def manifest(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> Manifest:
    recipe = small_recipe("outer.meta_iterations=20000", "outer.seed=3")
    return draft_manifest(recipe, patterns())


def row(mode: BatchNormMode, step_count: int, accuracy: float) -> EvaluationRow:
    return EvaluationRow(
        way=5,
        shot=1,
        query_count=1,
        task_count=1000,
        step_count=step_count,
        batch_norm_mode=mode,
        preconditioner="carried",
        accuracy=accuracy,
        ci95=0.0081,
        ci_method="95% t-interval over tasks",
    )


def test_a_card_says_what_was_trained_on_what_and_how_well(manifest: Manifest) -> None:
    rows = (
        row(BatchNormMode.SUPPORT, 10, 0.89712),
        row(BatchNormMode.TRANSDUCTIVE, 50, 0.9318),
    )

    lines = model_card(replace(manifest, evaluation=rows)).splitlines()

    text = "\n".join(lines)
    assert lines[0] == "# omniglot, version 1"
    assert "20,000 meta-iterations of 3-way tasks with 2 examples per class, seed 3" in text
    assert "training classes of `omniglot`, split `reptile`" in text
    assert manifest.provenance.data_digest in text
    assert manifest.provenance.split_digest in text
    assert "torch " in text
    assert "On 1,000 tasks sampled from test classes that training never saw, 1 query" in text
    assert "± is the half width of a 95% t-interval over tasks. `kshot evaluate` with" in text
    assert "| 5 | 1 | 10 | carried | support | 89.71% ± 0.81% |" in lines
    assert "| 5 | 1 | 50 | carried | transductive | 93.18% ± 0.81% |" in lines
    assert "at most 1,000 examples and 1,000 queries a request" in text
    assert text.count("\n\n\n") == 0


def test_a_card_names_every_method_of_its_intervals(manifest: Manifest) -> None:
    perfect = replace(row(BatchNormMode.SUPPORT, 50, 1.0), ci_method="95% Wilson interval")
    rows = (row(BatchNormMode.SUPPORT, 10, 0.9), perfect)

    text = model_card(replace(manifest, evaluation=rows))
    assert "the half width of a 95% t-interval over tasks or a 95% Wilson interval." in text


def test_a_card_without_a_table_says_so(manifest: Manifest) -> None:
    assert "\n## Accuracy\n\nNot measured.\n" in model_card(manifest)
