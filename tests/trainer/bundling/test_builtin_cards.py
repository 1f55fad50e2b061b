"""The cards of the bundles that ship say what their manifests say, and how they were trained."""

import re
import shlex

import pytest

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.bundle.manifest import CARD_FILE
from kshot.trainer.bundling.calibrated_card import calibrate_command, calibration_words
from kshot.trainer.bundling.card import accuracy_section, calibration_limit, evaluate_command
from kshot.trainer.evaluate.accuracy_table import TABLE_SEED
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import recipe_digest

NAMES = sorted(folder.name for folder in builtin_bundle().parents[1].iterdir() if folder.is_dir())


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(builtin_bundle(request.param))


@pytest.fixture
def card(bundle: Bundle) -> str:
    return (bundle.path / CARD_FILE).read_text(encoding="utf-8")


def test_all_bundles_that_ship_are_looked_at() -> None:
    assert NAMES == ["cifar-fs", "omniglot", "omniglot-20way", "omniglot-best"]


def test_a_cards_table_commands_and_temperatures_are_the_manifests(
    bundle: Bundle, card: str
) -> None:
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    assert manifest.calibration is not None
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|(?: [\d.]+%? \|){4}$", card, re.M)

    assert "\n".join(accuracy_section(manifest)) + "\n" in card
    assert f"\n    {evaluate_command(manifest, TABLE_SEED, 'CALIBRATED')}\n" in card
    assert calibration_limit(manifest) + "\n" in card
    assert rows == [
        (rule.batch_norm_mode, f"{rule.shot:g}", f"{rule.temperature:.4g}")
        for rule in manifest.calibration.rules
    ]
    assert f"\n{calibration_words(manifest)}\n" in card
    assert f"\n    {calibrate_command(manifest)}\n" in card
    assert manifest.calibration.step_count == manifest.inner_loop.step_count
    assert f", {provenance.meta_iterations:,} meta-iterations of " in card
    for told in (provenance.split_digest, provenance.data_digest):
        assert f"`{told}`" in card


def test_a_cards_training_is_of_the_recipe_that_made_the_bundle(bundle: Bundle, card: str) -> None:
    line = re.search(r"^    kshot train (.*) --out OUT --data DATA$", card, re.M)
    assert line is not None
    name, *words = shlex.split(line.group(1))
    assert words[::2] == ["--set"] * (len(words) // 2)
    recipe = load_recipe(name, words[1::2])

    assert name == bundle.manifest.provenance.recipe
    assert recipe_digest(recipe) == bundle.manifest.provenance.recipe_digest
