"""A calibrated copy of a bundle: other defaults, temperatures, its own table and card."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kshot.bundle import (
    BatchNormMode,
    Bundle,
    BundleError,
    Head,
    Manifest,
    Preconditioner,
    load_bundle,
    write_bundle,
)
from kshot.bundle.manifest import CARD_FILE
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import model_card, words_of_card


def with_defaults(
    manifest: Manifest,
    step_count: int | None,
    mode: BatchNormMode | None,
    preconditioner: Preconditioner | None,
    head: Head | None,
) -> Manifest:
    """Return a manifest with other defaults; None keeps the manifest's own."""
    inner, batch_norm = manifest.inner_loop, manifest.batch_norm
    return replace(
        manifest,
        inner_loop=replace(
            inner,
            step_count=step_count or inner.step_count,
            preconditioner=preconditioner or inner.preconditioner,
        ),
        batch_norm=replace(batch_norm, default=mode or batch_norm.default),
        head=replace(manifest.head, default=head or manifest.head.default),
    )


def write_copy(
    out: Path, bundle: Bundle, manifest: Manifest, fits: Sequence[TemperatureFit]
) -> Bundle:
    """Write `out/NAME/VERSION`: the bundle's weights and templates beside another manifest.

    `manifest` has the copy's defaults, table and calibration, `fits` are those of its
    temperatures. Raises `BundleError` when the folder exists, cannot be written, or a file of the
    bundle has changed.
    """
    if load_bundle(bundle.path) != bundle:
        raise BundleError(f"{bundle.path} has changed while it was calibrated")
    templates = {mode: bundle.template_path(mode).read_bytes() for mode in BatchNormMode}
    card = (bundle.path / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    card = model_card(words_of_card(card, bundle.manifest), manifest, fits)
    return write_bundle(out, replace(manifest, files={}), bundle.read_weights(), templates, card)
