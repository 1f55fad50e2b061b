"""Strict reading of a recipe: every key by itself, then what must hold between keys."""

from collections.abc import Sequence
from itertools import pairwise

from kshot.bundle.document import DocumentError, parse
from kshot.bundle.manifest import Grayscale, InputSpec, Resize
from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe import Recipe, Serving

__all__ = ["parse_recipe"]


def parse_recipe(document: object, source: str) -> Recipe:
    """Read a recipe from plain values; ``source`` names it in messages.

    Raises RecipeError for a key that is unknown, missing, mistyped, out of range, or at odds with
    another one: what passes makes a bundle whose manifest is accepted.
    """
    try:
        recipe = parse(Recipe, document)
        _check_input(recipe.input)
        _check_choices(recipe)
        _check_growth(recipe)
        _check_batch_sizes(recipe.serving)
        _check_limits(recipe)
    except DocumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error
    return recipe


def _check_input(spec: InputSpec) -> None:
    names = [step.step for step in spec.preprocessing]
    if names not in (["grayscale", "resize", "rescale"], ["rgb", "resize", "rescale"]):
        raise DocumentError(
            "input.preprocessing", _list(names), "grayscale or rgb, then resize, then rescale"
        )
    color, resize = spec.preprocessing[:2]
    assert isinstance(resize, Resize)  # noqa: S101 -- by its name, checked above
    made = (1 if isinstance(color, Grayscale) else 3, resize.height, resize.width)
    if spec.shape != made:
        raise DocumentError("input.shape", _list(spec.shape), f"{_list(made)}, as its steps make")


def _check_choices(recipe: Recipe) -> None:
    serving = recipe.serving
    for field, default, allowed in (
        ("batch_norm.default", recipe.batch_norm.default, recipe.batch_norm.allowed),
        ("serving.preconditioner", serving.preconditioner, serving.preconditioners),
        ("serving.head.default", serving.head.default, serving.head.allowed),
        ("serving.scope.default", serving.scope.default, serving.scope.allowed),
    ):
        if default not in allowed:
            raise DocumentError(field, default, f"one of those allowed: {_list(allowed)}")


def _check_growth(recipe: Recipe) -> None:
    serving = recipe.serving
    for field, values in (
        ("evaluation.table.shots", recipe.evaluation.table.shots),
        ("serving.batch_size_by_way", [rule.max_way for rule in serving.batch_size_by_way]),
        ("serving.batch_sizes", serving.batch_sizes),
        ("serving.way_buckets", serving.way_buckets),
    ):
        if any(left >= right for left, right in pairwise(values)):
            raise DocumentError(field, _list(values), "growing numbers")


def _check_batch_sizes(serving: Serving) -> None:
    for index, rule in enumerate(serving.batch_size_by_way):
        if rule.batch_size not in serving.batch_sizes:
            raise DocumentError(
                f"serving.batch_size_by_way[{index}].batch_size",
                str(rule.batch_size),
                f"one of serving.batch_sizes: {_list(serving.batch_sizes)}",
            )
    most = serving.limits.max_way
    for field, last in (
        ("serving.batch_size_by_way", serving.batch_size_by_way[-1].max_way),
        ("serving.way_buckets", serving.way_buckets[-1]),
    ):
        if last < most:
            raise DocumentError(
                field, f"{last} as the last", f"serving.limits.max_way, {most}, reached"
            )


def _check_limits(recipe: Recipe) -> None:
    limits = recipe.serving.limits
    for field, value, name, most in (
        ("task.way", recipe.task.way, "max_way", limits.max_way),
        ("serving.step_count", recipe.serving.step_count, "max_step_count", limits.max_step_count),
        (
            "inner.learning_rate",
            recipe.inner.learning_rate,
            "max_learning_rate",
            limits.max_learning_rate,
        ),
    ):
        if value > most:
            raise DocumentError(field, str(value), f"at most serving.limits.{name}, {most}")


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
