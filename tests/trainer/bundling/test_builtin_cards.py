"""The cards of the shipped bundles say what their manifests, tables and recipes say."""

import re
import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.bundle.manifest import CARD_FILE
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import CardWords, model_card, words_of_card
from kshot.trainer.bundling.training_words import training_words
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import recipe_digest

NAMES = sorted(
    folder.name for folder in builtin_bundle("omniglot").parents[1].iterdir() if folder.is_dir()
)
# Of the training data sets, rotations included: classes and images.
OMNIGLOT, CIFAR_FS = (4800, 96_000), (64, 19_200)


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(builtin_bundle(request.param))


@pytest.fixture
def card(bundle: Bundle) -> str:
    return (bundle.path / CARD_FILE).read_text(encoding="utf-8")


@pytest.fixture
def words(bundle: Bundle, card: str) -> CardWords:
    """What calibrating the bundle again would take from its card."""
    return words_of_card(card, replace(bundle.manifest, calibration=None))


@pytest.fixture
def fits(bundle: Bundle, card: str) -> list[TemperatureFit]:
    """The manifest's temperatures with the errors that the card tells."""
    calibration = bundle.manifest.calibration
    assert calibration is not None
    errors = re.findall(r"^\| \w+ \| [\d.]+ \| [\d.]+ \|" + r" ([\d.]+)%? \|" * 4 + "$", card, re.M)
    assert len(errors) == len(calibration.rules)
    return [
        TemperatureFit(rule, score(before, uncalibrated_nll), score(after, nll))
        for rule, (before, after, uncalibrated_nll, nll) in zip(
            calibration.rules, errors, strict=True
        )
    ]


def score(ece_percent: str, nll: str) -> EvaluationResult:
    ece = float(ece_percent) / 100
    return EvaluationResult(0.9, 0, "", ece, float(nll), 1, 1, 0, (1,), 1, "")


def facts(card: str) -> list[str]:
    """Return the introduction, tables, commands and limits, and the numbers and names of all else.

    Cards are rendered in better English than the shipped ones were.
    """
    introduction, *sections = card.split("\n## ")
    found = introduction.splitlines()
    for section in sections:
        if not section.startswith(("Again", "Reproduction")):
            found += re.findall(r"`[^`]+`|\d[\d,.]*%?", section)
        lines = section.splitlines()
        found += [line for line in lines if line.startswith(("| ", "    ", "- "))]
    return [fact for fact in found if not fact.startswith("- Probabilities")]


def test_all_shipped_bundles_are_checked() -> None:
    assert NAMES == ["cifar-fs", "drawings", "omniglot", "omniglot-20way", "omniglot-best"]


def test_a_card_has_the_facts_of_its_manifest(
    bundle: Bundle, card: str, words: CardWords, fits: list[TemperatureFit]
) -> None:
    manifest = bundle.manifest
    assert manifest.calibration is not None

    rendered = model_card(words, manifest, fits)

    assert facts(rendered) == facts(card)
    assert len(facts(card)) > 60
    assert manifest.calibration.step_count == manifest.inner_loop.step_count


def test_a_card_describes_the_training(bundle: Bundle, card: str, words: CardWords) -> None:
    """Byte for byte what rendering it for the recipe and the data set gives."""
    manifest = bundle.manifest
    assert words.training is not None
    _, _, name, *options = shlex.split(words.training)
    settings = options[: options.index("--out")]
    assert settings[::2] == ["--set"] * (len(settings) // 2)
    recipe = load_image_recipe(name, settings[1::2])
    classes, images = CIFAR_FS if bundle.manifest.name == "cifar-fs" else OMNIGLOT
    dataset = cast(ImageDataset, SimpleNamespace(class_count=classes, image_count=images))

    assert name == manifest.provenance.recipe
    assert recipe_digest(recipe) == manifest.provenance.recipe_digest
    assert words == training_words(manifest, recipe, dataset)
    assert f"    {words.training}\n" in card
