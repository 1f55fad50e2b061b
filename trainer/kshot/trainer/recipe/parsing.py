"""Strict reading of a recipe: each key by itself, then the keys together."""

import re

from kshot.bundle.document import DocumentError, expect, parse
from kshot.bundle.schema import check_growing, check_manifest
from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.manifest import manifest_of
from kshot.trainer.recipe.recipe import Inner, Outer, Recipe, Task
from kshot.trainer.recipe.sine import SINE, SineRecipe

AnyRecipe = Recipe | SineRecipe
# The data set and split whose validation classes are mirror images.
MIRRORED = ("omniglot", "reptile")
# The manifest's fields that are other keys in a recipe.
RECIPE_KEYS = {
    "inner_loop.learning_rate": "inner.learning_rate",
    "inner_loop.": "serving.",
    "head.": "serving.head.",
    "scope.": "serving.scope.",
    "limits.": "serving.limits.",
    "training.way": "task.way",
}
_RENAMED = re.compile(rf"\b({'|'.join(map(re.escape, RECIPE_KEYS))})")


def parse_recipe(document: object, source: str) -> AnyRecipe:
    """Read a recipe from plain values; `source` names it in messages.

    Its data set decides its kind. Raises `RecipeError` for a key that is unknown, missing,
    mistyped, out of range, or inconsistent with another key.
    """
    try:
        data = document.get("data") if isinstance(document, dict) else None
        if isinstance(data, dict) and data.get("dataset") == SINE:
            waves = parse(SineRecipe, document)
            _check_sampling(waves.inner, waves.task.grid_count)
            _check_loops(waves.inner, waves.outer)
            return waves
        images = parse(Recipe, document)
        _check_recipe(images)
        return images
    except DocumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error


def _check_recipe(recipe: Recipe) -> None:
    """Check a recipe for images; the manifest of its bundle passes the checks of manifests."""
    _check_data(recipe)
    _check_task(recipe.task, recipe.inner, recipe.outer)
    _check_loops(recipe.inner, recipe.outer)
    _check_evaluation(recipe)
    _check_serving(recipe)


def _check_loops(inner: Inner, outer: Outer) -> None:
    weights, count = outer.gradient_weights, inner.step_count
    key, algorithm = "outer.gradient_weights", f"with algorithm {outer.algorithm}"
    if outer.algorithm == "weighted":
        got = "none" if weights is None else f"{len(weights)} numbers"
        fits = weights is not None and len(weights) == count
        expect(fits, key, f"{count} numbers, one for each inner step", got)
        expect(any(weights or ()), key, "a number that is not 0", list(weights or ()))
    else:
        expect(weights is None, key, f"no such key {algorithm}", list(weights or ()))
    if outer.algorithm == "joint":
        expect(count == 1, "inner.step_count", f"1 {algorithm}", count)
    if outer.algorithm == "maml":
        name = inner.preconditioner
        expect(name == "sgd", "inner.preconditioner", f"sgd {algorithm}", name)


def _check_data(recipe: Recipe) -> None:
    data = recipe.data
    if data.dataset == "folder":
        expect(data.folder is not None, "data.folder", "a folder", "none")
    else:
        expected = f"no such key with data set {data.dataset}; only data set folder has one"
        expect(data.folder is None, "data.folder", expected, data.folder)
    changed = recipe.augmentation
    expected = "no such key: images are encoded once, before they could be changed"
    free = changed is None or recipe.encoded_shape is None
    expect(free, "augmentation", expected, "one; leave it out (--set augmentation=)")
    if changed is not None and changed.flip and (data.dataset, data.split) == MIRRORED:
        reason = "the validation classes of this split are mirrored training classes"
        raise DocumentError("augmentation.flip", f"expected false, got true; {reason}")


def _check_task(task: Task, inner: Inner, outer: Outer) -> None:
    expected = f"less than task.shot, {task.shot}"
    expect(task.tail_shot < task.shot, "task.tail_shot", expected, task.tail_shot)
    if task.tail_shot and task.head != "prototype":
        expected = "at least 2 with a separate tail"
        expect(inner.step_count >= 2, "inner.step_count", expected, inner.step_count)
    if task.tail_as_served:
        key = "task.head" if task.head is not None else "task.tail_batch_norm"
        is_fomaml = outer.algorithm == "fomaml"
        expect(is_fomaml, "outer.algorithm", f"fomaml with {key}", outer.algorithm)
        expect(task.tail_shot > 0, "task.tail_shot", f"at least 1 with {key}", 0)
        carries = inner.step_count == 1 and inner.preconditioner == "carried"
        expected = "fresh or sgd with one inner step and a separate tail"
        expect(not carries, "inner.preconditioner", expected, "carried")
    _check_sampling(inner, task.way * (task.shot - task.tail_shot))
    if task.labels == "fixed":
        is_joint = outer.algorithm == "joint"
        expect(is_joint, "outer.algorithm", "joint with fixed labels", outer.algorithm)
        drawn_from_all = task.shot == 1 and inner.sampling == "cycling"
        expected = "shuffled, or shot 1 and sampling cycling"
        expect(drawn_from_all, "task.labels", expected, "fixed")


def _check_sampling(inner: Inner, example_count: int) -> None:
    if inner.sampling == "replacement":
        expected = f"at most the {example_count} examples, with sampling replacement"
        fits = inner.batch_size <= example_count
        expect(fits, "inner.batch_size", expected, inner.batch_size)


def _check_serving(recipe: Recipe) -> None:
    try:
        check_manifest(manifest_of(recipe, "", "", {}))
    except DocumentError as error:
        raise DocumentError(_recipe_keys(error.field), _recipe_keys(error.problem)) from None
    serving = recipe.serving
    if recipe.inner.preconditioner != "carried":
        carried = {"carried", "frozen"}.intersection(serving.preconditioners)
        expected = "neither carried nor frozen, unless inner.preconditioner is carried"
        expect(not carried, "serving.preconditioners", expected, ", ".join(sorted(carried)))
    if recipe.task.head == "prototype":
        allowed = serving.head.allowed
        expected = "prototype alone with task.head prototype: no other head is trained"
        only = allowed == ("prototype",)
        expect(only, "serving.head.allowed", expected, ", ".join(allowed))


def _recipe_keys(text: str) -> str:
    """Replace the manifest's names of fields by those of the recipe's keys."""
    return _RENAMED.sub(lambda match: RECIPE_KEYS[match[1]], text)


def _check_evaluation(recipe: Recipe) -> None:
    evaluation, most = recipe.evaluation, recipe.serving.limits.max_way
    check_growing("evaluation.table.shots", evaluation.table.shots)
    for field, way in (("way", evaluation.way), ("table.way", evaluation.table.way or 0)):
        expected = f"at most {most} (serving.limits.max_way)"
        expect(way <= most, f"evaluation.{field}", expected, way)
