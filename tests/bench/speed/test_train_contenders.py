"""kshot and the plain loop train the same way."""

from __future__ import annotations

import torch

from kshot.bench.speed import plain_loop
from kshot.bench.speed.adapt_contenders import load_plain, named_parameters
from kshot.bench.speed.train_contenders import Workload, kshot_reptile, plain_reptile
from kshot.trainer.loop.outer_state import meta_step_size
from kshot.trainer.loop.recipe_loop import step_spec
from kshot.trainer.tasks.meta_batch import draw_meta_batch


def plain_tasks(work: Workload, meta_iteration: int) -> list[plain_loop.Task]:
    """Convert the trainer's own draws to the plain loop's tasks."""
    drawn = draw_meta_batch(work.recipe, work.dataset, meta_iteration)
    images = work.dataset.images.float() / 255
    return [
        plain_loop.Task(images[rows], classes, indices)
        for rows, classes, indices in zip(drawn.inputs, drawn.targets, drawn.indices, strict=True)
    ]


def test_the_plain_loop_trains_as_kshot(work: Workload) -> None:
    """Two meta-iterations on kshot's draws, v carried through all tasks: only rounding differs."""
    start = work.start
    model = load_plain(work.network, named_parameters(work.layout, start.parameters[None]))
    moments = named_parameters(work.layout, start.second_moment[None])
    optimizer = plain_loop.adam(model, work.recipe.inner.learning_rate)
    for parameter, moment in zip(model.parameters(), moments.values(), strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(start.step)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": moment.clone(),
        }
    for meta_iteration in range(2):
        size = meta_step_size(work.recipe.outer, meta_iteration)
        plain_loop.reptile_iteration(model, optimizer, plain_tasks(work, meta_iteration), size)

    advance = kshot_reptile(work, step_spec(work.recipe).build())
    advance(1)
    learned = named_parameters(work.layout, advance(1).parameters[None])

    for ours, theirs in zip(learned.values(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-5)


def test_each_call_continues_the_training(work: Workload) -> None:
    kshot, plain = kshot_reptile(work, step_spec(work.recipe).build()), plain_reptile(work)

    def kshots(count: int) -> torch.Tensor:
        return kshot(count).parameters.clone()

    def plains(count: int) -> torch.Tensor:
        return torch.cat([value.detach().flatten() for value in plain(count).parameters()])

    for advance in (kshots, plains):
        start, middle, end = advance(0), advance(2), advance(1)

        assert not torch.equal(start, middle)
        assert not torch.equal(middle, end)
