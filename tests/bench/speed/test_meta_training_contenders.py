"""All contenders of `kshot bench train` train the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from kshot.bench.speed import jax_loop, plain_loop
from kshot.bench.speed import meta_training_contenders as reptile
from kshot.bench.speed.contenders import load_plain, named_parameters, plain_parameters
from kshot.bench.speed.meta_training_contenders import (
    Workload,
    jax_reptile,
    kshot_reptile,
    plain_reptile,
    workload,
)
from kshot.learner import layout_of
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.recipe_loop import step_spec
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.tasks.meta_batch import draw_meta_batch

SMALL = (
    "network.arguments.filters=4",
    "task.way=3",
    "task.shot=2",
    "inner.batch_size=4",
    "inner.step_count=3",
    "outer.meta_batch_size=2",
    "outer.meta_iterations=10",
)
MOMENT, STEP = 1e-3, 100_000


@pytest.fixture
def work() -> Workload:
    """A training that is under way, so that all divide by about the same v."""
    small = workload(load_image_recipe("omniglot-5way", SMALL), 8, torch.device("cpu"))
    parameters = small.start.parameters
    start = OuterState(parameters, torch.full_like(parameters, MOMENT), STEP, 0)
    return Workload(small.recipe, small.dataset, small.network, start, small.device)


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def plain_tasks(work: Workload, meta_iteration: int) -> list[plain_loop.Task]:
    """Bring the trainer's own draws to the plain loop."""
    drawn = draw_meta_batch(work.recipe, work.dataset, meta_iteration)
    images = work.dataset.images.float() / 255
    return [
        plain_loop.Task(images[rows], classes, indices)
        for rows, classes, indices in zip(drawn.rows, drawn.classes, drawn.indices, strict=True)
    ]


def test_the_plain_loop_trains_as_kshot_does(work: Workload) -> None:
    """Two meta-iterations on kshot's draws, v carried through all tasks; the rest is rounding."""
    layout = layout_of(work.network, work.recipe.task.way)
    model = load_plain(work.network, named_parameters(layout, work.start.parameters[None]))
    optimizer = plain_loop.adam(model, work.recipe.inner.learning_rate)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(STEP)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.full_like(parameter, MOMENT),
        }
    for meta_iteration in range(2):
        size = work.meta_step_size(meta_iteration)
        plain_loop.reptile_iteration(model, optimizer, plain_tasks(work, meta_iteration), size)

    trainee = kshot_reptile(work, step_spec(work.recipe).build())
    trainee.advance(1)
    trainee.advance(1)

    assert largest_difference(trainee.learned(), plain_parameters(model)) < 1e-5


@pytest.mark.parametrize("serial", [True, False])
def test_jax_trains_as_the_recipe_with_the_same_order_of_tasks(
    work: Workload, serial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serial is the recipe as it is, side by side the recipe with `stacked`."""
    drawn = draw_meta_batch(work.recipe, work.dataset, 0)
    draws = iter(zip(drawn.rows.numpy(), drawn.indices.numpy(), strict=True))
    monkeypatch.setattr(reptile, "_draw", lambda *_: next(draws))
    order = "serial" if serial else "stacked"
    recipe = load_image_recipe("omniglot-5way", (*SMALL, f"outer.meta_batch={order}"))
    same = Workload(recipe, work.dataset, work.network, work.start, work.device)

    ours = kshot_reptile(same, step_spec(recipe).build())
    theirs = jax_reptile(same, serial=serial)
    ours.advance(1)
    theirs.advance(1)

    assert largest_difference(ours.learned(), theirs.learned()) < 1e-5


def test_every_contender_goes_on_from_where_it_was(work: Workload) -> None:
    for trainee in (
        kshot_reptile(work, step_spec(work.recipe).build()),
        plain_reptile(work),
        jax_reptile(work, serial=True),
    ):
        start = trainee.learned()
        start = {name: value.clone() for name, value in start.items()}
        trainee.advance(2)
        middle = {name: value.clone() for name, value in trainee.learned().items()}
        trainee.advance(1)

        assert largest_difference(start, middle) > 0
        assert largest_difference(middle, trainee.learned()) > 0


def test_jaxs_draws_are_few_shot_tasks(work: Workload) -> None:
    task, inner = work.recipe.task, work.recipe.inner

    rows, batches = reptile._draw(np.random.default_rng(0), 8, task, inner)

    classes = (rows // reptile.IMAGES_PER_CLASS).reshape(task.way, task.shot)
    assert len(set(rows.tolist())) == 6
    assert all(len(set(own.tolist())) == 1 for own in classes)
    assert len(set(classes[:, 0].tolist())) == 3
    assert batches.shape == (3, 4)
    assert Counter(batches.ravel()[:6].tolist()) == Counter(range(6))


def test_parameters_come_back_from_jax_as_they_went(work: Workload) -> None:
    layout = layout_of(work.network, work.recipe.task.way)
    parameters = named_parameters(layout, work.start.parameters[None])

    there_and_back = jax_loop.to_names(jax_loop.from_names(parameters))

    assert largest_difference(parameters, there_and_back) == 0
    assert all(there_and_back[name].shape == value.shape for name, value in parameters.items())
