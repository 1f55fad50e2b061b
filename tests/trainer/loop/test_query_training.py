"""Trainings whose tail is answered like queries."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import BatchNormMode, Head
from kshot.learner import (
    Initialization,
    QueryGradient,
    QuerySpec,
    query_logits,
    run_inner_loop,
    start_state,
)
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.loop import step_compilation
from kshot.trainer.loop.algorithms import algorithm_of
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.recipe_loop import query_spec, step_rule
from kshot.trainer.loop.run import first_state
from kshot.trainer.loop.step_compilation import compiled_loop
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.meta_batch import ImageTasks

CPU = torch.device("cpu")
BASE = (
    "task.shot=3",
    "task.tail_shot=2",
    "inner.preconditioner=sgd",
    "inner.learning_rate=0.1",
    "serving.preconditioners=['sgd']",
    "serving.preconditioner=sgd",
    "outer.algorithm=fomaml",
)
PROTOTYPE = (
    "task.head=prototype",
    "serving.head={default='prototype', allowed=['prototype']}",
)
SUPPORT = ("task.tail_batch_norm=support",)


def images_of(loop: OuterLoop) -> ImageTasks:
    assert isinstance(loop.tasks, ImageTasks)
    return loop.tasks


def tail_loss(loop: OuterLoop, state: OuterState, task: int) -> Tensor:
    """Adapt to one task and answer its tail by what serves; differentiable in the start."""
    recipe = images_of(loop).recipe
    drawn = loop.tasks.draw(0)
    images, classes = images_of(loop).pixels.take(drawn.inputs[task]), drawn.targets[task]
    assert drawn.tail is not None
    tail = drawn.tail[task]
    early = torch.tensor([i for i in range(len(classes)) if i not in tail.tolist()])
    parameters, moments = (
        {name: value[0] for name, value in loop.layout.split(vector[None]).items()}
        for vector in (state.parameters, state.second_moment)
    )
    head = Head(recipe.task.head or "trained")
    start = start_state(
        Initialization(loop.network, recipe.task.way, parameters, moments, 0),
        recipe.task.way,
        head=head,
        preconditioner=step_rule(recipe.inner).preconditioner,
        support=images[early],
        classes=classes[early],
    )
    adapted = run_inner_loop(
        loop.inner_step,
        start,
        images[None],
        classes[None],
        drawn.indices[task][None],
        loop.rule,
    ).state
    mode = BatchNormMode(recipe.task.tail_batch_norm or "transductive")
    logits = query_logits(
        loop.network,
        loop.layout.split(adapted.parameters),
        images[tail][None],
        images[early][None],
        mode,
    )
    return functional.cross_entropy(logits[0], classes[tail])


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
@pytest.mark.parametrize("step_count", [1, 3])
@pytest.mark.parametrize("tail", [(*PROTOTYPE, *SUPPORT), PROTOTYPE])
def test_the_loss_of_a_meta_iteration_is_that_of_serving(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    meta_batch: str,
    step_count: int,
    tail: tuple[str, ...],
) -> None:
    """The mean over tasks of their queries' loss, adapted and answered by the functions of serving.

    The gradient is checked against this loss in tests/learner/test_query_gradient.py.
    """
    steps = f"inner.step_count={step_count}"
    recipe = small_recipe(*BASE, *tail, steps, f"outer.meta_batch={meta_batch}")
    loop = image_loop(recipe, patterns(), CPU)
    state = first_state(loop, CPU)

    advanced, loss = loop.advance(state)

    wanted = torch.stack([tail_loss(loop, state, task) for task in range(2)]).mean()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    body = loop.layout.body_size
    assert not torch.equal(advanced.parameters[:body], state.parameters[:body])
    assert torch.equal(advanced.parameters[body:], state.parameters[body:])


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
def test_with_the_trained_head_and_own_statistics_it_is_a_separate_tail(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset], meta_batch: str
) -> None:
    """FOMAML's last gradient by itself, against the last step's way; 2e-6 in float32."""
    settings = (*BASE, "inner.step_count=3", f"outer.meta_batch={meta_batch}")
    as_queries, as_step = (
        image_loop(small_recipe(*settings, *extra), patterns(), CPU)
        for extra in (("task.tail_batch_norm=transductive",), ())
    )
    assert as_queries.query_gradient is not None
    assert as_step.query_gradient is None
    state = first_state(as_step, CPU)

    one, _ = as_queries.advance(state)
    other, _ = as_step.advance(state)

    assert (one.parameters - state.parameters).abs().max() > 1e-3
    torch.testing.assert_close(one.parameters, other.parameters, atol=2e-6, rtol=0)


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
def test_adams_second_moment_goes_on_from_the_steps_before_the_tail(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset], meta_batch: str
) -> None:
    """It is what the same tasks give to FOMAML without the tail's own step, which has none here."""
    settings = (*BASE[:2], "outer.algorithm=fomaml", f"outer.meta_batch={meta_batch}")
    as_queries, as_step = (
        image_loop(small_recipe(*settings, *extra, "inner.step_count=3"), patterns(), CPU)
        for extra in (SUPPORT, ())
    )
    state = first_state(as_step, CPU)

    one, _ = as_queries.advance(state)

    drawn = as_step.tasks.draw(0)
    without_tail = replace(drawn, tail=None)
    shorter = replace(as_step, algorithm=algorithm_of(as_step.outer, 2))
    other, _ = shorter.advance(state, without_tail)
    assert one.step == other.step == state.step + (4 if meta_batch == "serial" else 2)
    assert one.second_moment.any()
    torch.testing.assert_close(one.second_moment, other.second_moment)


@pytest.mark.parametrize("sampling", ["cycling", "replacement"])
def test_no_step_before_the_tail_draws_no_batch(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset], sampling: str
) -> None:
    settings = ("inner.step_count=1", f"inner.sampling={sampling}")
    loop = image_loop(small_recipe(*BASE, *PROTOTYPE, *settings), patterns(), CPU)
    state = first_state(loop, CPU)

    advanced, _ = loop.advance(state)

    assert not torch.equal(advanced.parameters, state.parameters)


def test_it_learns(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    recipe = small_recipe(
        *BASE,
        *PROTOTYPE,
        *SUPPORT,
        *("inner.step_count=2", "outer.optimizer=adam", "outer.meta_step_size=0.01"),
        *("outer.meta_iterations=40", "outer.meta_batch=stacked"),
    )
    loop = image_loop(recipe, patterns(class_count=40), CPU)
    state = first_state(loop, CPU)
    losses = []
    for _ in range(40):
        state, loss = loop.advance(state)
        losses.append(float(loss))

    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.compiled
def test_compiled_it_trains_the_same(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """A perceptron's programs compile in a third of the time of a convolution's."""
    network = "network={name='mlp', arguments={hidden_units=8, hidden_layers=1}}"
    steps = "inner.step_count=2"
    recipe = small_recipe(*BASE, *PROTOTYPE, *SUPPORT, steps, "outer.meta_batch=stacked", network)
    loop = image_loop(recipe, patterns(), CPU)
    state = first_state(loop, CPU)
    said: list[str] = []

    compiled = compiled_loop(loop, recipe, state, compiled=True, say=said.append)

    assert said == ["compiling the inner step"]
    assert compiled.query_gradient is not loop.query_gradient
    assert compiled.inner_step is not loop.inner_step
    one, loss = compiled.advance(state)
    other, wanted = loop.advance(state)
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.parameters, other.parameters, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("meta_batch", "tasks"), [("serial", 1), ("stacked", 2)])
def test_only_what_runs_is_compiled(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    monkeypatch: pytest.MonkeyPatch,
    meta_batch: str,
    tasks: int,
) -> None:
    """Without a step before the tail there is no inner step to compile."""
    asked: list[QuerySpec] = []

    def compile_program(spec: QuerySpec, _device: torch.device) -> QueryGradient:
        asked.append(spec)
        return spec.build()

    monkeypatch.setattr(step_compilation, "compile_program", compile_program)
    monkeypatch.delattr(step_compilation, "compile_step")
    recipe = small_recipe(
        *BASE, *PROTOTYPE, *SUPPORT, "inner.step_count=1", f"outer.meta_batch={meta_batch}"
    )
    loop = image_loop(recipe, patterns(), CPU)

    compiled_loop(loop, recipe, first_state(loop, CPU), compiled=True, say=lambda _: None)

    (spec,) = asked
    assert (spec.task_count, spec.support_count, spec.query_count) == (tasks, 3, 6)


def test_only_what_is_set_is_part_of_a_recipe() -> None:
    plain = load_image_recipe("omniglot-5way")

    assert (plain.task.head, plain.task.tail_batch_norm) == (None, None)
    assert query_spec(plain) is None
    assert replace(plain.task, head="trained").tail_as_served


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("outer.algorithm=reptile",),
            "outer.algorithm: expected fomaml with task.head, got reptile",
        ),
        (("task.tail_shot=0",), "task.tail_shot: expected at least 1 with task.head, got 0"),
        (
            ("serving.head.allowed=['prototype', 'zero']",),
            "serving.head.allowed: expected prototype alone .*, got prototype, zero",
        ),
        (("task.head=zero",), 'task.head: expected one of trained, prototype, got "zero"'),
        (
            ("task.tail_batch_norm=support_and_query",),
            "task.tail_batch_norm: expected one of support, transductive, got",
        ),
        (
            (
                "inner.step_count=1",
                "inner.preconditioner=carried",
                "serving.preconditioners=['carried']",
                "serving.preconditioner=carried",
            ),
            "inner.preconditioner: expected fresh or sgd with one inner step .*, got carried",
        ),
    ],
)
def test_recipes_that_cannot_be_trained_so_are_refused(
    small_recipe: Callable[..., Recipe], settings: tuple[str, ...], message: str
) -> None:
    small_recipe(*BASE, *PROTOTYPE, "inner.step_count=1")  # this one can

    with pytest.raises(RecipeError, match=message):
        small_recipe(*BASE, *PROTOTYPE, *settings)


def test_without_a_prototype_head_a_tail_alone_leaves_the_other_examples_unused(
    small_recipe: Callable[..., Recipe],
) -> None:
    with pytest.raises(
        RecipeError, match=r"inner.step_count: expected at least 2 with a separate tail, got 1"
    ):
        small_recipe(*BASE, *SUPPORT, "inner.step_count=1")
