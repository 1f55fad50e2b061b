import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import BatchNormMode, EvaluationRow, Manifest
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import CardWords, model_card, words_of_card
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.bundling.training_words import training_words
from kshot.trainer.datasets.dataset import ImageDataset, with_rotations
from kshot.trainer.evaluate.scores import EvaluationResult
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
        words = training_words(manifest, recipe, dataset)
        seed = recipe.evaluation.table.seed
        return model_card(words, replace(manifest, evaluation=rows), table_seed=seed)

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


def test_a_card_describes_training_and_accuracy(
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
                "augmentation.noise=0.1",
            ),
            (
                "- Inner loop: no step, from class means; then 1 query per class, normalized by "
                "the other examples' statistics, give the outer gradient.",
                "each moved by up to 12.5% of their sides, rotated by up to 5 degrees, with noise "
                "of a deviation of up to 0.1 at random",
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
def test_every_kind_of_training_is_described(
    card: Callable[..., str], settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    text = card((), *settings)

    for expected in words:
        assert expected in text


def test_its_commands_repeat_training_and_table(
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


def test_a_users_recipe_is_a_file(card: Callable[..., str]) -> None:
    text = card((), "name=mine")

    assert "\n    kshot train RECIPE.toml --out OUT --data DATA\n" in text
    assert "RECIPE.toml holds the settings that `recipe.json` beside" in text


def test_a_card_names_every_method_of_its_intervals(card: Callable[..., str]) -> None:
    perfect = replace(row(BatchNormMode.SUPPORT, 50, 1.0), ci_method="95% Wilson interval")

    text = card((row(BatchNormMode.SUPPORT, 10, 0.9), perfect))

    assert "the half width of a 95% t-interval over tasks or a 95% Wilson interval." in text


def test_a_card_without_a_table_says_so(card: Callable[..., str]) -> None:
    assert "\n## Accuracy\n\nNot measured.\n" in card(())


def score(ece: float, nll: float) -> EvaluationResult:
    return EvaluationResult(0.9, 0.01, "an interval", ece, nll, 9, 10, 1.0, (5,) * 9, 6, "e" * 64)


@pytest.fixture
def copy(
    small_recipe: Recipes, dataset: ImageDataset, calibrated: Callable[[Manifest], Manifest]
) -> Manifest:
    """A calibrated manifest whose table has two rows."""
    rows = (row(BatchNormMode.SUPPORT, 5, 0.8), row(BatchNormMode.SUPPORT, 10, 0.9))
    return calibrated(replace(draft_manifest(small_recipe(), dataset), evaluation=rows))


@pytest.fixture
def calibrate(copy: Manifest) -> Callable[[str], str]:
    """Return a function from the card of a bundle to that of its calibrated copy."""
    assert copy.calibration is not None
    fits = [
        TemperatureFit(rule, score(0.05, 0.25), score(0.01 * number, 0.2))
        for number, rule in enumerate(copy.calibration.rules, start=1)
    ]
    original = replace(copy, calibration=None)
    return lambda card: model_card(words_of_card(card, original), copy, fits)


def sections(card: str) -> dict[str, str]:
    introduction, *parts = card.split("\n## ")
    return dict([("", introduction), *(part.split("\n", 1) for part in parts)])


def test_a_copys_card_keeps_the_rest(
    card: Callable[..., str], calibrate: Callable[[str], str]
) -> None:
    original = card((row(BatchNormMode.SUPPORT, 10, 0.9),))

    before, after = sections(original), sections(calibrate(original))

    assert list(after) == ["", "Accuracy", "Calibration", "Reproduction", "Limits"]
    assert list(before) == ["", "Accuracy", "Reproduction", "Limits"]
    assert after[""] == before[""]
    assert "| 5 | 1 | 5 | carried | support | 80.00% ± 0.81% |" in after["Accuracy"]
    assert "| 5 | 1 | 10 | carried | support | 90.00% ± 0.81% |" in after["Accuracy"]
    trains, evaluates = (sections["Reproduction"].splitlines()[1:3] for sections in (before, after))
    assert trains[0] == evaluates[0]
    assert evaluates[1] == (
        "    kshot evaluate CALIBRATED/omniglot/1 --data DATA --way 5 --shot 1 --queries 1 "
        "--tasks 1000 --seed 0 --step-count 5 --preconditioner carried --batch-norm-mode support"
    )
    *limits, uncalibrated = before["Limits"].splitlines()
    *same, calibrated = after["Limits"].splitlines()
    assert same == limits
    assert uncalibrated == "- Probabilities are not calibrated."
    assert calibrated.startswith(
        "- Probabilities are calibrated in the modes `transductive`, `support`, for images like"
    )
    assert "\n\n\n" not in calibrate(original)


def test_a_copys_card_tells_of_the_calibration(
    calibrate: Callable[[str], str], copy: Manifest
) -> None:
    said = sections(calibrate("# omniglot"))["Calibration"]

    assert (
        "on 9 3-way tasks with its number of examples and 2 queries per class, from the part "
        "`val` of the data (digest of its images `d4`), seed 0, adapted by this bundle's defaults: "
        "10 steps, preconditioner `carried`, head `trained`, scope `all`." in said
    )
    assert copy.calibration is not None
    for number, rule in enumerate(copy.calibration.rules, start=1):
        assert (
            f"| {rule.batch_norm_mode} | {rule.shot:g} | {rule.temperature:g} | 5.00% "
            f"| {number}.00% | 0.2500 | 0.2000 |" in said
        )
    assert (
        "\n    kshot calibrate OUT/omniglot/1 --out CALIBRATED --data DATA --split val --shots 1,5 "
        "--tasks 9 --queries 2 --seed 0 --step-count 10 --batch-norm-mode support "
        "--preconditioner carried --head trained" in said
    )


def test_an_old_card_is_rendered_again(calibrate: Callable[[str], str]) -> None:
    table = "| 5 | 1 | 10 | carried | support | 93.08% ± 0.69% |"
    train = "    kshot train omniglot-5way --out OUT --data DATA"
    limits = "- 2 to 50 classes.\n- Probabilities are not calibrated.\n"
    original = (
        f"# omniglot, version 1\n\n- Data.\n\n## Accuracy\n\n{table}\n\n## Again\n\n{train}\n\n"
        f"It trains.\n\n## Limits\n\n{limits}"
    )

    card = calibrate(original)

    assert card.startswith("# omniglot, version 1\n\n- Data.\n\n## Accuracy\n\nOn 1,000 tasks ")
    assert list(sections(card)) == ["", "Accuracy", "Calibration", "Reproduction", "Limits"]
    assert f"\n{train}\n" in card
    assert table not in card
    assert "It trains." not in card
    assert "not calibrated" not in card


@pytest.mark.parametrize("card", ["", "# mine", "some words\r\n\r\nand more\r\n", "## Limits\n"])
def test_any_card_gets_the_sections(calibrate: Callable[[str], str], card: str) -> None:
    rendered = calibrate(card)

    assert rendered.startswith(card.split("\r\n")[0] if "##" not in card else "## Accuracy")
    assert rendered.index("## Accuracy") < rendered.index("## Calibration")
    assert rendered.endswith(".\n")


def test_a_copys_card_keeps_what_others_wrote(calibrate: Callable[[str], str]) -> None:
    card = calibrate("# mine\n\n## License\n\nMIT.\n\n## Limits\n\n- Not for medicine.\n")

    assert sections(card)["License"] == "\nMIT.\n"
    assert card.endswith("\n- Not for medicine.\n")
    assert "kshot train" not in card


def test_a_copy_without_a_table_has_no_evaluation(copy: Manifest) -> None:
    card = sections(model_card(CardWords("# mine", "kshot train x"), replace(copy, evaluation=())))

    assert card["Accuracy"] == "\nNot measured.\n"
    assert "kshot evaluate" not in card["Reproduction"]


def test_a_card_tells_uncalibrated_probabilities(card: Callable[..., str]) -> None:
    assert card(()).endswith("\n- Probabilities are not calibrated.\n")
    assert "## Calibration" not in card(())
