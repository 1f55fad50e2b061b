from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import BatchNormMode, EvaluationRow, Manifest
from kshot.trainer.bundling.calibrated_card import calibrated_card
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import model_card
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.recipe.recipe import Recipe

Card = Callable[[str], str]
ROW = EvaluationRow(
    3, 1, 1, 1000, 10, BatchNormMode.SUPPORT, "carried", 0.9, 0.01, "95% t-interval over tasks"
)


@pytest.fixture
def dataset(patterns: Callable[..., ImageDataset]) -> ImageDataset:
    return patterns()


@pytest.fixture
def manifest(small_recipe: Callable[..., Recipe], dataset: ImageDataset) -> Manifest:
    return replace(draft_manifest(small_recipe(), dataset), evaluation=(ROW,))


@pytest.fixture
def copy(manifest: Manifest, calibrated: Callable[[Manifest], Manifest]) -> Manifest:
    """A calibrated manifest whose table begins with another row."""
    rows = (replace(ROW, step_count=5, accuracy=0.8), ROW)
    return calibrated(replace(manifest, evaluation=rows))


@pytest.fixture
def calibrate(copy: Manifest) -> Card:
    assert copy.calibration is not None
    fits = [
        TemperatureFit(rule, 0.9, 0.01 * number, 0.2, 0.05, 0.25, 0)
        for number, rule in enumerate(copy.calibration.rules, start=1)
    ]
    return lambda card: calibrated_card(card, copy, fits)


def sections(card: str) -> dict[str, str]:
    parts = card.split("\n## ")
    return dict([("", parts[0]), *(part.split("\n", 1) for part in parts[1:])])


def test_a_card_keeps_what_calibration_does_not_change(
    calibrate: Card, manifest: Manifest, small_recipe: Callable[..., Recipe], dataset: ImageDataset
) -> None:
    original = model_card(manifest, small_recipe(), dataset)

    card = calibrate(original)

    before, after = sections(original), sections(card)
    assert list(after) == ["", "Accuracy", "Calibration", "Again", "Limits"]
    assert after[""] == before[""]
    assert "| 3 | 1 | 5 | carried | support | 80.00% ± 1.00% |" in after["Accuracy"]
    assert "| 3 | 1 | 10 | carried | support | 90.00% ± 1.00% |" in after["Accuracy"]
    assert before["Again"].splitlines()[1] == after["Again"].splitlines()[1]  # trains again
    assert (
        "    kshot evaluate CALIBRATED/omniglot/1 --data DATA --way 3 --shot 1 --queries 1 "
        "--tasks 1000 --seed 0 --step-count 5 --preconditioner carried --batch-norm-mode support\n"
    ) in after["Again"]
    assert "kshot evaluate OUT" not in card
    line = "- Probabilities are not calibrated."
    assert line in before["Limits"]
    assert line not in card
    assert before["Limits"].replace(f"{line}\n", "") in card
    assert "- Probabilities are calibrated in the modes `transductive`, `support`, for" in card
    assert card.endswith(".\n")
    assert "\n\n\n" not in card


def test_a_card_tells_of_its_manifests_calibration(calibrate: Card, copy: Manifest) -> None:
    card = sections(calibrate("# omniglot\n\n## Limits\n\n- None.\n"))
    said = card["Calibration"]

    assert list(card) == ["", "Accuracy", "Calibration", "Again", "Limits"]
    assert (
        "on 9 3-way tasks for each number of examples, with 2 queries per class, from the part "
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
        "--preconditioner carried --head trained\n" in said
    )
    assert "kshot evaluate CALIBRATED/omniglot/1" in card["Again"]
    assert card["Limits"] == "\n- None.\n"


def test_a_card_of_an_earlier_build_is_rewritten(calibrate: Card) -> None:
    """It had no commands."""
    table = "| 5 | 1 | 10 | carried | support | 93.08% ± 0.69% |"
    limits = "- 2 to 50 classes.\n- Probabilities are not calibrated.\n"
    original = (
        f"# omniglot, version 1\n\n- Data.\n\n## Accuracy\n\n{table}\n\n## Limits\n\n{limits}"
    )

    card = calibrate(original)

    assert card.startswith("# omniglot, version 1\n\n- Data.\n\n## Accuracy\n\nOn 1,000 tasks ")
    assert list(sections(card)) == ["", "Accuracy", "Calibration", "Again", "Limits"]
    assert table not in card
    assert "not calibrated" not in card


@pytest.mark.parametrize("card", ["", "# mine", "some words\r\n\r\nand more\r\n", "## Limits\n"])
def test_any_card_gets_the_sections(calibrate: Card, card: str) -> None:
    rewritten = calibrate(card)

    assert rewritten.startswith(card.split("\r\n")[0] if "##" not in card else "## Accuracy")
    assert rewritten.index("## Accuracy") < rewritten.index("## Calibration")
    assert rewritten.endswith("\n")


def test_a_copy_without_a_table_measures_nothing_again(
    copy: Manifest, small_recipe: Callable[..., Recipe], dataset: ImageDataset
) -> None:
    original = model_card(replace(copy, evaluation=(), calibration=None), small_recipe(), dataset)

    card = sections(calibrated_card(original, replace(copy, evaluation=()), []))

    assert card["Accuracy"] == "\nNot measured.\n"
    assert "kshot evaluate" not in card["Again"]


def test_a_manifest_without_calibration_has_no_such_card(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="manifest of omniglot has no calibration"):
        calibrated_card("# omniglot", manifest, [])
