"""A request to adapt that was checked: its options, and its support set made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kshot.bundle import Head, InputSpec, Manifest
from kshot.server.call_context import current_call
from kshot.server.engine_link.client import EngineTask
from kshot.server.predict.catalog import ServedModel
from kshot.server.report.examples import ExampleNote, note_pictures
from kshot.server.report.support_warnings import support_warnings
from kshot.server.request.digest import begin_adaptation_digest, support_digest
from kshot.server.request.grounds import grounds_of, support_ground_warnings
from kshot.server.request.images import (
    SUPPORT_IMAGES,
    ImageRules,
    PixelBudget,
    check_sent,
    image_count,
    prepare_images,
)
from kshot.server.request.inputs import AdaptInput
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.validation import check_labels
from kshot.server.request.violations import Violations
from kshot.server.store.kept_support import PackedImages
from kshot.server.tail import NO_TAIL, TailOutlook, may_adapt, unfinished

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CheckedTask:
    """A checked request to adapt: a prepared support set and resolved options.

    `images` are the prepared ones, which the digest is made of; the engine's support set is the
    encoded one where the bundle has an encoder. `temperature` divides the adapted model's logits.
    `feature_blocks` are the sizes of those that the engine's support set begins with, if it is
    features. `asks_for_tail` tells that the caller set an option of the tail, `budget_is_idle` that
    he set its time budget where it cannot adapt. `tail_example_seconds` is what a step of the tail
    takes for each example, 0 where it may not adapt, and `tail` how far it adapts. `packed` are the
    images that are kept where the engine's support set is not.
    """

    engine_task: EngineTask
    class_names: tuple[str, ...]
    images: Floats
    temperature: float = 1.0
    feature_blocks: tuple[int, ...] = ()
    seen: SeenImages | None = None
    asks_for_tail: bool = False
    budget_is_idle: bool = False
    tail_example_seconds: float = 0
    tail: TailOutlook | None = None
    packed: PackedImages | None = None

    @property
    def keeps_support(self) -> bool:
        """Tell whether the adapted model is kept, and its support set with it."""
        options = self.engine_task.options
        return options.retain_support and options.ttl > 0

    def encoded(self, support: Floats, spec: InputSpec) -> CheckedTask:
        """Give the engine an encoded support set, made of images of this input; blocks."""
        seen = SeenImages.of(self.engine_task, self.images)
        packed = PackedImages.of(self.images, spec) if self.keeps_support else None
        engine_task = replace(self.engine_task, support=support)
        return replace(self, engine_task=engine_task, seen=seen, packed=packed)

    def without_images(self) -> CheckedTask:
        """Drop the images, which nobody needs any more.

        Encoded images are far smaller, and many calls may wait for the engine.
        """
        return replace(self, images=self.images[:0].copy())

    def for_engine(self) -> EngineTask:
        """Return the engine's task; a tail that runs out of time leaves the head."""
        task = self.engine_task
        options = replace(task.options, allow_partial=task.options.allow_partial or bool(task.tail))
        return replace(task, options=options)

    def tail_warnings(self, *, out_of_time: bool = False, failed: bool = False) -> tuple[str, ...]:
        """Return a sentence if the deadline came before the tail had adapted, or a step failed.

        Also for a caller who asked for a tail that has no time to adapt, or gave time for none.
        """
        if self.tail is None:
            return (NO_TAIL,) if self.budget_is_idle else ()
        if self.tail.plan is not None:
            return (unfinished(failed=failed),) if out_of_time or failed else ()
        budget = self.engine_task.options.time_budget
        return (self.tail.warning(budget),) if self.asks_for_tail else ()


@dataclass(frozen=True)
class SeenImages:
    """What an adaptation keeps of prepared images: digests, one of them begun, and notes."""

    support_digest: str
    finish_digest: Callable[[Sequence[int], Sequence[str], Mapping[str, object]], str]
    notes: tuple[ExampleNote, ...]

    @staticmethod
    def of(task: EngineTask, images: Floats) -> SeenImages:
        """Look at the prepared images of a task; blocks."""
        classes = np.asarray(task.class_indices, np.int64)
        digest = begin_adaptation_digest(task.bundle_digest, images)
        notes = note_pictures(images, classes) if task.options.estimate else ()
        support = support_digest(images, task.class_indices)
        return SeenImages(support, digest, tuple(notes))


def check_task(
    task: AdaptInput,
    model: ServedModel,
    ttl: TtlLimits,
    pixels: PixelBudget,
    violations: Violations,
) -> CheckedTask:
    """Check and prepare a request; blocks. The result is valid if no violation was noted."""
    support_set, manifest = task.support_set, model.bundle.manifest
    count = image_count(support_set.images)
    check_labels(support_set, count, (2, manifest.limits.max_way), violations)
    way = len(support_set.class_names)
    bounds = Bounds(manifest, way, len(support_set.class_indices), ttl)
    options = resolve_options(task.options, bounds, violations)
    rules = ImageRules(
        SUPPORT_IMAGES,
        manifest.limits.max_support_count,
        pixels,
        manifest.input,
    )
    support = prepare_images(support_set.images, rules, violations)
    engine_task = EngineTask(
        model=manifest.name,
        bundle_digest=model.bundle.digest,
        support=support,
        class_indices=support_set.class_indices,
        way=way,
        options=options,
        caller=current_call().caller,
    )
    checked = task_for(manifest, engine_task, support_set.class_names, support)
    # Without a model's name the budget is for those that have a tail.
    idle = task.model and "time_budget" in task.options and not may_adapt(manifest, options)
    return replace(
        checked,
        asks_for_tail=not {"scope", "time_budget"}.isdisjoint(task.options),
        budget_is_idle=bool(idle),
    )


def task_for(
    manifest: Manifest, engine_task: EngineTask, class_names: tuple[str, ...], images: Floats
) -> CheckedTask:
    """Add to an engine's task of a model what its answers are read by."""
    options, count = engine_task.options, len(engine_task.class_indices)
    temperature = manifest.temperature(
        options.batch_norm_mode, max(engine_task.way, 2), max(count, 1)
    )
    # Where a head by ridge regression takes the inputs themselves.
    of_inputs = manifest.network.name == "features" and options.head is Head.RIDGE
    blocks = manifest.ridge.block_sizes if of_inputs and manifest.ridge is not None else ()
    return CheckedTask(engine_task, class_names, images, temperature, blocks)


def warnings_of_task(task: CheckedTask, manifest: Manifest) -> tuple[str, ...]:
    """Return sentences about what in a support set may make answers wrong; blocks."""
    classes = np.asarray(task.engine_task.class_indices, np.int64)
    options = task.engine_task.options
    return (
        *support_ground_warnings(grounds_of(task.images, manifest)),
        *support_warnings(task.images, classes, task.class_names, manifest, options),
    )


def check_task_alone(task: AdaptInput, max_way: int, violations: Violations) -> None:
    """Check what needs no model, for a request that names no served one; blocks."""
    images = task.support_set.images
    check_labels(task.support_set, image_count(images), (2, max_way), violations)
    check_sent(images, SUPPORT_IMAGES, violations)
