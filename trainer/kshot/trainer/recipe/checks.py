"""What must hold between the keys of a recipe; each mistake is a ``DocumentError``."""

from collections.abc import Sequence
from itertools import pairwise

from kshot.bundle.document import DocumentError
from kshot.bundle.manifest import Grayscale, InputSpec, Resize
from kshot.trainer.recipe.recipe import Inner, Outer, Recipe, Serving, Task
from kshot.trainer.recipe.sine import SineRecipe

__all__ = ["check_recipe", "check_sine_recipe"]

# The data set and split whose validation classes are mirror images.
MIRRORED = ("omniglot", "reptile")


def check_recipe(recipe: Recipe) -> None:
    """Check a recipe over images: what passes makes a bundle whose manifest is accepted."""
    _check_input(recipe.input)
    _check_data(recipe)
    _check_task(recipe.task, recipe.inner, recipe.outer)
    _check_loops(recipe.inner, recipe.outer)
    _check_choices(recipe)
    _check_growth(recipe)
    _check_batch_sizes(recipe.serving)
    _check_limits(recipe)


def check_sine_recipe(recipe: SineRecipe) -> None:
    """Check a recipe over sine waves."""
    _check_sampling(recipe.inner, recipe.task.grid_count)
    _check_loops(recipe.inner, recipe.outer)


def _check_loops(inner: Inner, outer: Outer) -> None:
    weights, count = outer.gradient_weights, inner.step_count
    if outer.algorithm == "weighted" and (weights is None or len(weights) != count):
        got = "none" if weights is None else f"{len(weights)} numbers"
        raise DocumentError("outer.gradient_weights", got, f"{count}, one for each inner step")
    if outer.algorithm != "weighted" and weights is not None:
        raise DocumentError(
            "outer.gradient_weights", _list(weights), f"none with algorithm {outer.algorithm}"
        )
    if weights is not None and not any(weights):
        raise DocumentError("outer.gradient_weights", _list(weights), "one that is not 0")
    if outer.algorithm == "joint" and count != 1:
        raise DocumentError("inner.step_count", str(count), "1 with algorithm joint")
    if outer.algorithm == "maml" and inner.preconditioner != "sgd":
        raise DocumentError("inner.preconditioner", inner.preconditioner, "sgd with algorithm maml")


def _check_data(recipe: Recipe) -> None:
    data = recipe.data
    if (data.folder is None) == (data.dataset == "folder"):
        wanted = "a folder" if data.dataset == "folder" else "none: only data set folder has one"
        raise DocumentError("data.folder", data.folder or "none", wanted)
    changed = recipe.augmentation
    if changed is not None and changed.flip and (data.dataset, data.split) == MIRRORED:
        raise DocumentError(
            "augmentation.flip",
            "true",
            "false: the validation classes of this split are the training classes turned over",
        )


def _check_task(task: Task, inner: Inner, outer: Outer) -> None:
    if task.tail_shot >= task.shot:
        raise DocumentError("task.tail_shot", str(task.tail_shot), f"less than shot, {task.shot}")
    if task.tail_shot and inner.step_count < 2 and task.head != "prototype":
        raise DocumentError("inner.step_count", "1", "at least 2 with a separate tail")
    if task.tail_as_served:
        key = "head" if task.head is not None else "tail_batch_norm"
        if outer.algorithm != "fomaml":
            raise DocumentError(f"task.{key}", "there", f"none with algorithm {outer.algorithm}")
        if not task.tail_shot:
            raise DocumentError("task.tail_shot", "0", f"at least 1 with task.{key}")
        if inner.step_count == 1 and inner.preconditioner == "carried":
            raise DocumentError(
                "inner.preconditioner", "carried", "fresh or sgd: no step before the tail has a v"
            )
    _check_sampling(inner, task.way * (task.shot - task.tail_shot))
    if task.labels == "fixed" and outer.algorithm != "joint":
        raise DocumentError("outer.algorithm", outer.algorithm, "joint with fixed labels")
    if task.labels == "fixed" and (task.shot > 1 or inner.sampling != "cycling"):
        raise DocumentError(
            "task.labels", "fixed", "shuffled, or shot 1 and sampling cycling: images come from all"
        )


def _check_sampling(inner: Inner, example_count: int) -> None:
    if inner.sampling == "replacement" and inner.batch_size > example_count:
        raise DocumentError(
            "inner.batch_size",
            str(inner.batch_size),
            f"at most the {example_count} examples to draw from, with sampling replacement",
        )


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
    untaught = {"carried", "frozen"}.intersection(serving.preconditioners)
    if recipe.inner.preconditioner != "carried" and untaught:
        raise DocumentError(
            "serving.preconditioners",
            _list(sorted(untaught)),
            f"none that takes v from training, which inner.preconditioner "
            f"{recipe.inner.preconditioner} does not carry",
        )
    if recipe.task.head == "prototype" and serving.head.allowed != ("prototype",):
        raise DocumentError(
            "serving.head.allowed",
            _list(serving.head.allowed),
            "prototype alone with task.head prototype: no other head is trained",
        )
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
        ("evaluation.way", recipe.evaluation.way, "max_way", limits.max_way),
        ("evaluation.table.way", recipe.evaluation.table.way or 0, "max_way", limits.max_way),
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
    if recipe.task.labels == "shuffled" and recipe.task.way > limits.max_way:
        raise DocumentError(
            "task.way", str(recipe.task.way), f"at most serving.limits.max_way, {limits.max_way}"
        )


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
