"""JAX's contenders compute what kshot computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kshot.bench.speed import jax_contenders
from kshot.bench.speed.adapt_contenders import named_parameters
from kshot.bench.speed.jax_contenders import from_names, jax_adapt, jax_reptile
from kshot.bench.speed.jax_loop import Tree
from kshot.bench.speed.timed_task import TimedTask
from kshot.bench.speed.train_contenders import IMAGES_PER_CLASS, Workload, kshot_reptile
from kshot.trainer.loop.recipe_loop import step_spec
from kshot.trainer.tasks.meta_batch import draw_meta_batch

MakeTask = Callable[..., TimedTask]


def to_names(tree: Tree) -> dict[str, Tensor]:
    """Convert the loop's parameters to a bundle's shapes: the inverse of `from_names`."""
    parameters = {}
    for name, value in tree.items():
        array = np.array(value)
        if name.endswith("convolution.weight"):
            array = array.reshape(3, 3, -1, array.shape[1]).transpose(3, 2, 0, 1)
        else:
            array = array.T
        parameters[name] = torch.from_numpy(array.copy())
    return parameters


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_jax_takes_kshots_steps(
    make_task: MakeTask,
    adapt_with_kshot: Callable[[TimedTask], tuple[dict[str, Tensor], float]],
) -> None:
    """Both in float32 from the same carried v: only rounding differs."""
    task = make_task(step_count=20)

    ours, loss = adapt_with_kshot(task)
    state, losses = jax_adapt(task)()

    assert largest_difference(ours, to_names(state.parameters)) < 1e-5
    assert loss == pytest.approx(float(losses[-1]), rel=1e-4)


def test_each_adaptation_starts_anew(make_task: MakeTask) -> None:
    adapt = jax_adapt(make_task(step_count=20))  # for which JAX has compiled already

    (first, first_losses), (second, second_losses) = adapt(), adapt()

    assert largest_difference(to_names(first.parameters), to_names(second.parameters)) == 0
    assert float(first_losses[-1]) == float(second_losses[-1])


@pytest.mark.parametrize("serial", [True, False])
def test_jax_trains_as_the_recipe(
    work: Workload, serial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serial is the recipe as it is, side by side the recipe with `stacked`."""
    drawn = draw_meta_batch(work.recipe, work.dataset, 0)
    draws = iter(zip(drawn.inputs.numpy(), drawn.indices.numpy(), strict=True))
    monkeypatch.setattr(jax_contenders, "_draw", lambda *_: next(draws))
    order = "serial" if serial else "stacked"
    outer = replace(work.recipe.outer, meta_batch=order)
    same = replace(work, recipe=replace(work.recipe, outer=outer))

    ours = kshot_reptile(same, step_spec(same.recipe).build())(1)
    theirs = jax_reptile(same, serial=serial)(1)

    learned = named_parameters(work.layout, ours.parameters[None])
    assert largest_difference(learned, to_names(theirs.parameters)) < 1e-5


def test_each_call_continues_the_training(work: Workload) -> None:
    advance = jax_reptile(work, serial=True)

    start, middle, end = (to_names(advance(count).parameters) for count in (0, 2, 1))

    assert largest_difference(start, middle) > 0
    assert largest_difference(middle, end) > 0


def test_jax_draws_few_shot_tasks(work: Workload) -> None:
    task, inner = work.recipe.task, work.recipe.inner

    rows, batches = jax_contenders._draw(np.random.default_rng(0), 8, task, inner)

    classes = (rows // IMAGES_PER_CLASS).reshape(task.way, task.shot)
    assert len(set(rows.tolist())) == 6
    assert all(len(set(own.tolist())) == 1 for own in classes)
    assert len(set(classes[:, 0].tolist())) == 3
    assert batches.shape == (3, 4)
    assert Counter(batches.ravel()[:6].tolist()) == Counter(range(6))


def test_parameters_survive_the_conversion(work: Workload) -> None:
    parameters = named_parameters(work.layout, work.start.parameters[None])

    there_and_back = to_names(from_names(parameters))

    assert largest_difference(parameters, there_and_back) == 0
    assert all(there_and_back[name].shape == value.shape for name, value in parameters.items())
