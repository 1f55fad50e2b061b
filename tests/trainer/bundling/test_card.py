import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import BatchNormMode, EvaluationRow, Manifest
from kshot.trainer.bundling.card import calibration_limit, model_card
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset, with_rotations
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe

Recipes = Callable[..., Recipe]


@pytest.fixture
def dataset(patterns: Callable[..., ImageDataset]) -> ImageDataset:
    return with_rotations(patterns())


@pytest.fixture
def card(small_recipe: Recipes, dataset: ImageDataset) -> Callable[..., str]:
    """Return a function from rows and settings to a card."""

    def make(rows: tuple[EvaluationRow, ...], *settings: str) -> str:
        recipe = small_recipe(*settings)
        manifest = draft_manifest(recipe, dataset)
        return model_card(replace(manifest, evaluation=rows), recipe, dataset)

    return make


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


def test_a_card_says_what_was_trained_on_what_and_how_well(
    card: Callable[..., str], small_recipe: Recipes, dataset: ImageDataset
) -> None:
    rows = (
        row(BatchNormMode.SUPPORT, 10, 0.89712),
        row(BatchNormMode.TRANSDUCTIVE, 50, 0.9318),
    )

    text = card(rows, "outer.meta_iterations=20000", "outer.seed=3")

    lines = text.splitlines()
    manifest = draft_manifest(small_recipe(), dataset)
    assert lines[0] == "# omniglot, version 1"
    assert (
        "- Training: Reptile, recipe `omniglot-5way`, 20,000 meta-iterations of 2 tasks each "
        "(serial), 3-way with 2 examples per class, seed 3." in lines
    )
    assert (
        "- Inner loop: 2 steps of Adam without momentum, its second moment carried from task to "
        "task, learning rate 0.001, on batches of 3 (cycling)." in lines
    )
    assert "- Outer loop: plain steps, step size 1 to 0." in lines
    assert (
        "- Data: 8 training classes of `omniglot`, split `reptile`, each turned into 4 by right "
        "angles, 224 images in all (digest" in text
    )
    assert manifest.provenance.data_digest in text
    assert manifest.provenance.split_digest in text
    assert "torch " in text
    assert "On 1,000 tasks sampled from test classes that training never saw, 1 query" in text
    assert "± is the half width of a 95% t-interval over tasks." in text
    assert "| 5 | 1 | 10 | carried | support | 89.71% ± 0.81% |" in lines
    assert "| 5 | 1 | 50 | carried | transductive | 93.18% ± 0.81% |" in lines
    assert "at most 1,000 examples and 1,000 queries a request" in text
    assert text.count("\n\n\n") == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            (
                *("outer.algorithm=weighted", "outer.gradient_weights=[1, 0.5]"),
                *("outer.optimizer=adam", "outer.meta_step_size=0.001", "outer.meta_batch_size=1"),
            ),
            (
                "- Training: weighted inner gradients, ",
                "meta-iterations of 1 task each, 3-way with 2 examples per class",
                "- Outer loop: Adam, step size 0.001 to 0, inner gradients times 1, 0.5.",
            ),
        ),
        (
            (
                *("outer.algorithm=fomaml", "task.tail_shot=1", "inner.weight_decay_rate=0.999"),
                *("inner.preconditioner=sgd", "serving.preconditioner=sgd"),
                *('serving.preconditioners=["sgd"]', "outer.meta_batch=stacked"),
            ),
            (
                "- Training: FOMAML, ",
                "of 2 tasks each (stacked), 3-way with",
                "2 steps of plain gradient descent, learning rate 0.001, on batches of 3 (cycling),"
                " the last on 1 example per class kept for it, all parameters times 0.999 before "
                "each.",
            ),
        ),
        (
            (
                *("outer.algorithm=fomaml", "task.tail_shot=1", "task.head=prototype"),
                *("task.tail_batch_norm=support", "inner.step_count=1"),
                *("inner.preconditioner=sgd", "serving.preconditioner=sgd"),
                *('serving.preconditioners=["sgd"]', "serving.head.default=prototype"),
                'serving.head.allowed=["prototype"]',
                "augmentation={flip=false, shift=0.125, rotation_degrees=5.0, scale=0.0}",
            ),
            (
                "- Inner loop: no step, from class means; then 1 query per class, normalized by "
                "the other examples' statistics, give the outer gradient.",
                "each moved by up to 12.5% of their sides, rotated by up to 5 degrees at random",
            ),
        ),
        (
            (
                *("outer.algorithm=joint", "inner.step_count=1", "task.labels=fixed"),
                *("task.way=32", "task.shot=1", "data.rotations=false", "data.dataset=folder"),
                *("data.folder=letters", "data.split=seed:1"),
            ),
            (
                "- Training: joint training, ",
                "of 2 draws of images from all 32 classes, seed 0.",
                "- Data: 32 training classes of `folder` in `letters`, split `seed:1`, 224 images",
            ),
        ),
    ],
)
def test_a_card_tells_of_every_kind_of_training(
    card: Callable[..., str], settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    text = card((), *settings)

    for expected in words:
        assert expected in text


def test_its_commands_train_and_measure_the_same_again(
    card: Callable[..., str], small_recipe: Recipes
) -> None:
    text = card((row(BatchNormMode.SUPPORT, 10, 0.9),), "evaluation.table.seed=7")

    train, evaluate = (line.strip() for line in text.splitlines() if line.startswith("    "))
    words = shlex.split(train)
    assert words[:3] == ["kshot", "train", "omniglot-5way"]
    assert words[-4:] == ["--out", "OUT", "--data", "DATA"]
    assert set(words[3:-4:2]) == {"--set"}
    assert load_recipe(words[2], words[4:-4:2]) == small_recipe("evaluation.table.seed=7")
    assert evaluate == (
        "kshot evaluate OUT/omniglot/1 --data DATA --way 5 --shot 1 --queries 1 --tasks 1000 "
        "--seed 7 --step-count 10 --preconditioner carried --batch-norm-mode support"
    )


def test_a_recipe_of_one_s_own_is_told_from_a_shipped_one(card: Callable[..., str]) -> None:
    text = card((), "name=mine")

    assert "\n    kshot train RECIPE.toml --out OUT --data DATA\n" in text
    assert "RECIPE.toml has the settings that `recipe.json` beside" in text


def test_a_card_names_every_method_of_its_intervals(card: Callable[..., str]) -> None:
    perfect = replace(row(BatchNormMode.SUPPORT, 50, 1.0), ci_method="95% Wilson interval")

    text = card((row(BatchNormMode.SUPPORT, 10, 0.9), perfect))

    assert "the half width of a 95% t-interval over tasks or a 95% Wilson interval." in text


def test_a_card_without_a_table_says_so(card: Callable[..., str]) -> None:
    assert "\n## Accuracy\n\nNot measured.\n" in card(())


def test_a_card_says_whether_probabilities_are_calibrated(
    card: Callable[..., str],
    small_recipe: Recipes,
    dataset: ImageDataset,
    calibrated: Callable[[Manifest], Manifest],
) -> None:
    recipe = small_recipe()
    manifest = calibrated(draft_manifest(recipe, dataset))

    assert card(()).endswith("\n- Probabilities are not calibrated.\n")
    assert calibration_limit(manifest).startswith(
        "- Probabilities are calibrated in the modes `transductive`, `support`, for images like "
    )
    assert model_card(manifest, recipe, dataset).endswith(f"\n{calibration_limit(manifest)}\n")
