"""The request to adapt that stands for a revision: the changed support set, prepared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kshot.server.lives.revision import Revision, revise_labels, revised_options
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.images import ADDED_IMAGES, ImageRules, PixelBudget, prepare_images
from kshot.server.request.inputs import AdaptInput, SupportSet, TensorImages
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord

Floats = npt.NDArray[np.float32]
Kept = tuple[Floats, tuple[int, ...]]


def revised_task(
    adapted: AdaptedModelRecord,
    kept: Kept,
    revision: Revision,
    model: ServedModel,
    rules: tuple[PixelBudget, TtlLimits],
    violations: Violations,
) -> AdaptInput:
    """Return the request whose answer a revision is; raise all that is wrong with it; blocks.

    `kept` are the prepared images of `adapted` and their classes. The request sends all images
    prepared, as float32.
    """
    images, classes = kept
    manifest, (budget, ttl) = model.bundle.manifest, rules
    limits, way = manifest.limits, len(adapted.class_names)
    labels = revise_labels(classes, adapted.class_names, revision, limits, violations)
    before = Bounds(manifest, way, len(classes), ttl)
    asked = revised_options(adapted.options, before, revision.options)
    after = Bounds(manifest, len(labels.class_names), len(labels.class_indices), ttl)
    resolve_options(asked, after, violations)
    parts = [images[list(labels.rows)]]
    if revision.adds:
        added = ImageRules(ADDED_IMAGES, limits.max_support_count, budget, manifest.input)
        parts.append(prepare_images(revision.added.images, added, violations))
    violations.check()
    together = np.concatenate(parts)
    sent = TensorImages("FP32", together.shape, together.data.cast("B"))
    return AdaptInput(
        manifest.name, SupportSet(sent, labels.class_indices, labels.class_names), asked
    )
