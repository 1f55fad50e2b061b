"""Packages a training, or a calibrated copy, as a bundle: manifest, weights, templates, card."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kshot.bundle import (
    Bundle,
    BundleError,
    Manifest,
    Weights,
    load_bundle,
    write_bundle,
)
from kshot.bundle.manifest import CARD_FILE
from kshot.learner import Initialization
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import model_card, words_of_card
from kshot.trainer.bundling.onnx_templates import build_template
from kshot.trainer.bundling.training_words import training_words
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import TrainingError
from kshot.trainer.recipe.manifest import manifest_of
from kshot.trainer.recipe.recipe import Recipe


def draft_manifest(recipe: Recipe, dataset: ImageDataset) -> Manifest:
    """Return the manifest before the training, without accuracies and files."""
    return manifest_of(recipe, dataset.digest, dataset.split_digest, library_versions())


def bundle_folder(out: Path, manifest: Manifest) -> Path:
    """Return the bundle folder of a training in `out`, `out/NAME/VERSION`."""
    return out / manifest.name / str(manifest.version)


def finished_bundle(out: Path, manifest: Manifest) -> Path | None:
    """Return the folder of the bundle that this training has written already, or None.

    Raises `TrainingError` for the bundle of another training, `BundleError` for a damaged one.
    """
    folder = bundle_folder(out, manifest)
    if not folder.exists():
        return None
    found, wanted = (
        replace(provenance, library_versions={})
        for provenance in (load_bundle(folder).manifest.provenance, manifest.provenance)
    )
    if found != wanted:
        raise TrainingError(f"{folder} is the bundle of another training; name another folder")
    return folder


def pack_bundle(
    out: Path,
    manifest: Manifest,
    initialization: Initialization,
    recipe: Recipe,
    dataset: ImageDataset,
    start: Bundle | None = None,
) -> Path:
    """Write `out/NAME/VERSION` and return that folder; raises `BundleError` when it exists.

    The data set is the training part: the card describes it. The encoder is that of the bundle
    that the training started from.
    """
    modes = manifest.template_modes
    templates = {mode: build_template(initialization.network, mode) for mode in modes}
    weights = Weights(
        {name: value.cpu().numpy() for name, value in initialization.parameters.items()},
        {name: value.cpu().numpy() for name, value in initialization.second_moment.items()},
        initialization.step,
    )
    words = training_words(manifest, recipe, dataset)
    card = model_card(words, manifest, table_seed=recipe.evaluation.table.seed)
    encoder = None
    if start is not None and start.encoder_path is not None:
        encoder = start.encoder_path.read_bytes()
    return write_bundle(out, manifest, weights, templates, card, encoder=encoder).path


def pack_copy(
    out: Path, bundle: Bundle, manifest: Manifest, fits: Sequence[TemperatureFit]
) -> Bundle:
    """Write `out/NAME/VERSION`: the bundle's weights and templates beside another manifest.

    `manifest` has the copy's defaults, table and calibration, `fits` are those of its
    temperatures. Raises `BundleError` when the folder exists, cannot be written, or a file of the
    bundle has changed.
    """
    if load_bundle(bundle.path) != bundle:
        raise BundleError(f"{bundle.path} has changed while it was calibrated")
    modes = manifest.template_modes
    templates = {mode: bundle.template_path(mode).read_bytes() for mode in modes}
    card = (bundle.path / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    words = words_of_card(card, bundle.manifest)
    old, new = (f"# {each.name}, version {each.version}" for each in (bundle.manifest, manifest))
    words = replace(words, introduction=words.introduction.replace(old, new, 1))
    card = model_card(words, manifest, fits)
    encoder = None if bundle.encoder_path is None else bundle.encoder_path.read_bytes()
    manifest = replace(manifest, files={})
    tail = bundle.read_tail()
    return write_bundle(
        out, manifest, bundle.read_weights(), templates, card, encoder=encoder, tail=tail
    )


def library_versions() -> dict[str, str]:
    """Return the versions of the packages that the result depends on, if they are installed."""
    versions = {}
    for package in ("kshot", "numpy", "onnx", "onnxscript", "torch"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    versions["python"] = platform.python_version()
    return dict(sorted(versions.items()))
