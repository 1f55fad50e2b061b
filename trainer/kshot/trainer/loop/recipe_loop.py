"""The outer loop of a recipe: its network, its inner steps and its tasks, put together."""

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.learner import (
    Network,
    Objective,
    QuerySpec,
    StepRule,
    StepSpec,
    build_network,
    layout_of,
)
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.algorithms import algorithm_of
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.workers import ALONE, Workers
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import Inner
from kshot.trainer.tasks.training_tasks import TrainingTasks


def recipe_loop(recipe: AnyRecipe, tasks: TrainingTasks, workers: Workers = ALONE) -> OuterLoop:
    """Build the outer loop of a recipe, its steps uncompiled.

    Raises `TrainingError` when the recipe does not fit its network.
    """
    network = _network(recipe)
    spec, queries = step_spec(recipe), query_spec(recipe)
    step = spec.build()
    return OuterLoop(
        outer=recipe.outer,
        algorithm=algorithm_of(recipe.outer, recipe.inner.step_count),
        tasks=tasks,
        network=network,
        layout=layout_of(network, spec.way),
        objective=spec.objective,
        rule=step_rule(recipe.inner),
        inner_step=step,
        tail_step=step,
        query_gradient=None if queries is None else queries.build(),
        prototype_head=queries is not None and queries.head is Head.PROTOTYPE,
        workers=workers,
    )


def step_spec(recipe: AnyRecipe) -> StepSpec:
    """Describe the inner step of a recipe: of one task, or of a stacked meta-batch."""
    inner, outer = recipe.inner, recipe.outer
    return StepSpec(
        network=recipe.network,
        input_shape=recipe.input_shape,
        batch_norm_epsilon=recipe.batch_norm_epsilon,
        way=recipe.task.way,
        batch_size=inner.batch_size,
        updates_second_moment=inner.preconditioner != "sgd",
        second_moment_decay=inner.second_moment_decay,
        epsilon=inner.epsilon,
        scope=Scope.ALL,
        task_count=outer.meta_batch_size if outer.meta_batch == "stacked" else 1,
        weight_decay_rate=inner.weight_decay_rate,
        objective=Objective(recipe.objective),
    )


def query_spec(recipe: AnyRecipe) -> QuerySpec | None:
    """Describe the outer gradient of a recipe that answers its tail like queries, or None."""
    if not recipe.task.tail_as_served:
        return None
    task, outer = recipe.task, recipe.outer
    return QuerySpec(
        network=recipe.network,
        input_shape=recipe.input_shape,
        batch_norm_epsilon=recipe.batch_norm_epsilon,
        way=task.way,
        support_count=task.way * (task.shot - task.tail_shot),
        query_count=task.way * task.tail_shot,
        head=Head(task.head or "trained"),
        batch_norm_mode=BatchNormMode(task.tail_batch_norm or "transductive"),
        displaced=recipe.inner.step_count > 1,
        task_count=outer.meta_batch_size if outer.meta_batch == "stacked" else 1,
    )


def step_rule(inner: Inner) -> StepRule:
    """Return the constants of a recipe's inner steps."""
    return StepRule(
        Preconditioner(inner.preconditioner),
        inner.learning_rate,
        inner.second_moment_decay,
        inner.epsilon,
        inner.weight_decay_rate,
    )


def _network(recipe: AnyRecipe) -> Network:
    try:
        network = build_network(recipe.network, recipe.input_shape, recipe.batch_norm_epsilon)
    except ValueError as error:
        raise TrainingError(f"recipe {recipe.name}: {error}") from None
    if Objective(recipe.objective) is Objective.SQUARED_ERROR and network.statistics_shapes:
        raise TrainingError(
            f"recipe {recipe.name}: network.name: expected a network without batch norm for "
            f"regression, got {recipe.network.name}, which normalizes over a batch"
        )
    return network
