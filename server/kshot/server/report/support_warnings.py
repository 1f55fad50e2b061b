"""Sentences about a support set that may make answers wrong, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kshot.bundle import Head, Manifest, value_table
from kshot.server.request.options import AdaptOptions

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_IMBALANCE = 4  # the largest class beside the smallest
_FLAT = 0.02  # of the range of pixels: five shades of gray
_FEW_PIXELS = 1000
_FAR_MORE_CLASSES = 2  # times those of the tasks of meta-training


def support_warnings(
    images: Floats,
    classes: Integers,
    class_names: Sequence[str],
    manifest: Manifest,
    options: AdaptOptions,
) -> Iterator[str]:
    """Warn of prepared images `(n, channels, height, width)` of classes `(n,)` for a model."""
    counts = np.bincount(classes, minlength=len(class_names))
    yield from _of_counts(counts, class_names, options)
    yield from _of_pictures(images, manifest)
    yield from _of_way(len(class_names), manifest, options.head)


def _of_counts(
    counts: Integers, class_names: Sequence[str], options: AdaptOptions
) -> Iterator[str]:
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= _IMBALANCE * counts[least]:
        remedy = "give the smaller classes more"
        if options.step_count and not options.balance_classes:
            remedy += ", or set options.balance_classes"
        yield (
            f"support_set: class {class_names[most]!r} has {counts[most]} examples and class "
            f"{class_names[least]!r} {counts[least]}; answers may lean to the larger: {remedy}"
        )
    alone = int((counts == 1).sum())
    exactly = options.estimate and options.head.from_support and options.step_count == 0
    if (exactly or options.folds_wanted) and 0 < alone < len(counts):
        yield (
            f"support_set: {alone} of {len(counts)} classes have one example, and the estimate "
            "cannot tell how well these are known: give each a second one"
        )


def _of_pictures(images: Floats, manifest: Manifest) -> Iterator[str]:
    """Warn of pictures of one colour, and of pictures that do not differ."""
    count = len(images)
    flat = images.reshape(count, images.shape[1], -1)  # (n, channels, pixels)
    # Few pixels tell of most pictures that they are neither of one colour nor alike.
    few = flat[:, :, :: max(1, flat.shape[2] // _FEW_PIXELS)]
    tolerance: Floats | float = 0.0
    if manifest.input.preprocessing:
        table = value_table(manifest.input)
        tolerance = _FLAT * (table.max(axis=1) - table.min(axis=1))  # (channels,) or (1,)
        maybe = flat[(np.ptp(few, axis=2) <= tolerance).all(axis=1)]
        blank = int((np.ptp(maybe, axis=2) <= tolerance).all(axis=1).sum())
        if blank:
            yield (
                f"support_set: {blank} of {count} pictures are of one colour as the model sees "
                "them: replace them"
            )
        if blank == count:
            return
    if all((np.ptp(seen, axis=0).max(axis=1) <= tolerance).all() for seen in (few, flat)):
        yield (
            f"support_set: all {count} examples are nearly the same as the model sees them, so "
            "answers are guesses: check the images, or use a model that takes larger ones"
        )


def _of_way(way: int, manifest: Manifest, head: Head) -> Iterator[str]:
    trained = manifest.training.way
    if (
        manifest.provenance.meta_iterations > 0
        and head is Head.TRAINED
        and way > _FAR_MORE_CLASSES * trained
    ):
        allowed = Head.PROTOTYPE in manifest.head.allowed
        remedy = f"head {Head.PROTOTYPE} or another model" if allowed else "another model"
        yield (
            f"support_set: {way} classes are far more than the {trained} of the tasks that "
            f"{manifest.name!r} was trained on, so it answers worse than it says: try {remedy}"
        )
