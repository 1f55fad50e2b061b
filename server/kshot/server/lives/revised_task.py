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
from kshot.server.store.kept_support import KeptImages

Floats = npt.NDArray[np.float32]


def revised_task(
    adapted: AdaptedModelRecord,
    kept: KeptImages,
    revision: Revision,
    model: ServedModel,
    rules: tuple[PixelBudget, TtlLimits],
    violations: Violations,
) -> AdaptInput:
    """Return the request whose answer a revision is; raise all that is wrong with it; blocks.

    `kept` are the packed images of `adapted` and their classes. The request sends all images
    prepared, as float32.
    """
    packed, classes = kept
    manifest, (budget, ttl) = model.bundle.manifest, rules
    limits, way = manifest.limits, len(adapted.class_names)
    labels = revise_labels(classes, adapted.class_names, revision, limits, violations)
    before = Bounds(manifest, way, len(classes), ttl)
    asked = revised_options(adapted.options, before, revision.options)
    after = Bounds(manifest, len(labels.class_names), len(labels.class_indices), ttl)
    resolve_options(asked, after, violations)
    added: Floats | None = None
    if revision.adds:
        rules_of_added = ImageRules(ADDED_IMAGES, limits.max_support_count, budget, manifest.input)
        added = prepare_images(revision.added.images, rules_of_added, violations)
    violations.check()
    # One array, made once: the images are the most that a revision holds.
    together = np.empty((len(labels.class_indices), *packed.numbers.shape[1:]), np.float32)
    packed.write(labels.rows, together[: len(labels.rows)])
    if added is not None:
        together[len(labels.rows) :] = added
    sent = TensorImages("FP32", together.shape, together.data.cast("B"))
    return AdaptInput(
        manifest.name, SupportSet(sent, labels.class_indices, labels.class_names), asked
    )
