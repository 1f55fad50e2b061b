from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.learner import cycling_indices, derive_seed
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import EpisodeBatch, sample_episodes
from kshot.trainer.image_training import image_loop
from kshot.trainer.meta_batch import ImageTasks, MetaBatch
from kshot.trainer.outer_loop import OuterLoop
from kshot.trainer.outer_state import OuterState
from kshot.trainer.recipe import Recipe
from kshot.trainer.seeds import TASKS
from kshot.trainer.training import first_state

CPU = torch.device("cpu")
Loop = OuterLoop[MetaBatch]


def make_loop(recipe: Recipe, dataset: ImageDataset) -> Loop:
    return image_loop(recipe, dataset, CPU)


def images_of(loop: Loop) -> ImageTasks:
    assert isinstance(loop.tasks, ImageTasks)
    return loop.tasks


def some_state(loop: Loop, meta_iteration: int = 0) -> OuterState:
    """Return a state in the midst of a training.

    Its v is far from zero, where Adam would turn the rounding of a gradient into a full step.
    """
    start = first_state(loop, CPU)
    generator = torch.Generator().manual_seed(3)
    moment = 1e-4 + 1e-2 * torch.rand(start.parameters.shape, generator=generator)
    return OuterState(start.parameters, moment, 40, meta_iteration)


def drawn(loop: Loop, meta_iteration: int) -> tuple[EpisodeBatch, list[Tensor]]:
    """Return the tasks of a meta-iteration, and of each its mini-batches ``(steps, batch)``."""
    recipe = images_of(loop).recipe
    seed = derive_seed(recipe.outer.seed, TASKS, meta_iteration)
    tasks = sample_episodes(
        images_of(loop).dataset,
        recipe.outer.meta_batch_size,
        recipe.task.way,
        recipe.task.shot,
        0,
        torch.Generator().manual_seed(seed),
    )
    inner = recipe.inner
    count = recipe.task.way * recipe.task.shot
    batches = [
        cycling_indices(count, inner.batch_size, inner.step_count, derive_seed(seed, task))
        for task in range(len(tasks))
    ]
    return tasks, batches


def reference_loss(loop: Loop, vector: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Compute one task's loss by conv4 as the paper's code has it, written out for 28 x 28."""
    named = {name: value[0] for name, value in loop.layout.split(vector[None]).items()}
    hidden = images
    for block, padding in enumerate([(0, 1, 0, 1), (0, 1, 0, 1), (1, 1, 1, 1), (0, 1, 0, 1)], 1):
        weight = named[f"block{block}.convolution.weight"]
        hidden = functional.conv2d(functional.pad(hidden, padding), weight, stride=2)
        hidden = functional.batch_norm(
            hidden,
            None,
            None,
            named[f"block{block}.batch_norm.scale"],
            named[f"block{block}.batch_norm.shift"],
            training=True,
            eps=images_of(loop).recipe.batch_norm.epsilon,
        )
        hidden = functional.relu(hidden)
    logits = functional.linear(hidden.flatten(1), named["head.weight"], named["head.bias"])
    return functional.cross_entropy(logits, targets)


def reference_adapt(
    loop: Loop, start: OuterState, rows: Tensor, classes: Tensor, batches: Tensor
) -> tuple[Tensor, Tensor, int, list[float]]:
    """Adapt to one task by Adam without momentum, written out; v and t go on from the state."""
    inner = loop.inner
    images = images_of(loop).pixels.take(rows)
    vector, moment, step = start.parameters, start.second_moment, start.step
    losses = []
    for batch in batches:
        leaf = vector.clone().requires_grad_()
        loss = reference_loss(loop, leaf, images[batch], classes[batch])
        (gradient,) = torch.autograd.grad(loss, leaf)
        step += 1
        moment = inner.second_moment_decay * moment
        moment = moment + (1 - inner.second_moment_decay) * gradient**2
        corrected = inner.learning_rate * (1 - inner.second_moment_decay**step) ** 0.5
        vector = vector - corrected * gradient / (moment.sqrt() + inner.epsilon)
        losses.append(loss.item())
    return vector, moment, step, losses


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
@pytest.mark.parametrize("meta_iteration", [0, 2])
def test_a_meta_iteration_is_the_one_written_out(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    meta_batch: str,
    meta_iteration: int,
) -> None:
    """Serial carries v and t from task to task; stacked starts all at the same and averages v.

    Float32: 2e-6 for parameters of at most 1 that moved by 4e-3.
    """
    recipe = small_recipe(
        f"outer.meta_batch={meta_batch}", "outer.meta_batch_size=3", "inner.step_count=4"
    )
    loop = make_loop(recipe, patterns())
    state = some_state(loop, meta_iteration)

    advanced, loss = loop.advance(state)

    tasks, batches = drawn(loop, meta_iteration)
    carried = state
    adapted, moments, losses = [], [], []
    for task in range(3):
        vector, moment, step, task_losses = reference_adapt(
            loop, carried, tasks.support[task], tasks.support_classes[task], batches[task]
        )
        if meta_batch == "serial":
            carried = replace(carried, second_moment=moment, step=step)
        adapted.append(vector)
        moments.append(moment)
        losses += task_losses
    size = 1 - meta_iteration / recipe.outer.meta_iterations
    mean = torch.stack(adapted).mean(dim=0)
    wanted_moment = moments[-1] if meta_batch == "serial" else torch.stack(moments).mean(dim=0)
    moved = advanced.parameters - state.parameters
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(
        advanced.parameters, (1 - size) * state.parameters + size * mean, atol=2e-6, rtol=0
    )
    torch.testing.assert_close(advanced.second_moment, wanted_moment, atol=1e-8, rtol=1e-4)
    assert advanced.step == state.step + (12 if meta_batch == "serial" else 4)
    assert advanced.meta_iteration == meta_iteration + 1
    assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_order_of_tasks_matters_to_the_serial_second_moment(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    serial = make_loop(small_recipe("outer.meta_batch=serial"), dataset)
    stacked = make_loop(small_recipe("outer.meta_batch=stacked"), dataset)
    state = some_state(serial)

    one, _ = serial.advance(state)
    other, _ = stacked.advance(state)

    assert not torch.allclose(one.second_moment, other.second_moment, rtol=1e-5, atol=0)
    assert (one.step, other.step) == (state.step + 4, state.step + 2)


def test_a_meta_batch_of_one_task_is_the_same_serial_and_stacked(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    states = []
    for meta_batch in ("serial", "stacked"):
        recipe = small_recipe(f"outer.meta_batch={meta_batch}", "outer.meta_batch_size=1")
        loop = make_loop(recipe, dataset)
        state = some_state(loop)
        for _ in range(3):
            state, _ = loop.advance(state)
        states.append(state)

    serial, stacked = states
    assert torch.equal(serial.parameters, stacked.parameters)
    assert torch.equal(serial.second_moment, stacked.second_moment)
    assert serial.step == stacked.step


def test_one_step_of_plain_gradient_descent_is_a_step_of_joint_training(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """With k = 1, Reptile's gradient is that of the tasks' mean loss (paper, section 5.1)."""
    recipe = small_recipe(
        *("outer.meta_batch_size=4", "outer.meta_batch=stacked"),
        *("inner.step_count=1", "inner.learning_rate=0.1", "inner.preconditioner=sgd"),
        *("serving.preconditioners=['sgd']", "serving.preconditioner=sgd"),
    )
    loop = make_loop(recipe, patterns())
    state = some_state(loop)

    advanced, loss = loop.advance(state)

    tasks, batches = drawn(loop, 0)
    leaf = state.parameters.clone().requires_grad_()
    losses = [
        reference_loss(
            loop,
            leaf,
            images_of(loop).pixels.take(tasks.support[task])[batches[task][0]],
            tasks.support_classes[task][batches[task][0]],
        )
        for task in range(4)
    ]
    joint = torch.stack(losses).mean()
    (gradient,) = torch.autograd.grad(joint, leaf)
    torch.testing.assert_close(
        (state.parameters - advanced.parameters) / 0.1, gradient, atol=1e-5, rtol=1e-4
    )
    assert float(loss) == pytest.approx(joint.item(), rel=1e-5)
    assert torch.equal(advanced.second_moment, state.second_moment)
    assert advanced.step == state.step


def test_every_meta_iteration_draws_its_own_tasks_whatever_came_before(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    loop = make_loop(small_recipe(), patterns())
    state = some_state(loop, 3)

    torch.manual_seed(1)
    first, _ = loop.advance(state)
    torch.manual_seed(2)
    again, _ = loop.advance(state)
    next_one, _ = loop.advance(replace(state, meta_iteration=4))

    assert torch.equal(first.parameters, again.parameters)
    assert not torch.equal(first.parameters, next_one.parameters)


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
def test_a_state_stays_what_it_was_while_the_training_goes_on(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    meta_batch: str,
) -> None:
    """A checkpoint is written of a state that is several meta-iterations old."""
    loop = make_loop(small_recipe(f"outer.meta_batch={meta_batch}"), patterns())
    states = [some_state(loop)]
    copies = []
    for _ in range(3):
        copies.append((states[-1].parameters.clone(), states[-1].second_moment.clone()))
        states.append(loop.advance(states[-1])[0])

    for state, (parameters, moment) in zip(states, copies, strict=False):
        assert torch.equal(state.parameters, parameters)
        assert torch.equal(state.second_moment, moment)


def test_tasks_drawn_ahead_are_those_that_would_be_drawn_in_place(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    loop = make_loop(small_recipe(), patterns())
    state = ahead = some_state(loop, 2)
    batches = [loop.draw(number) for number in (2, 3, 4)]
    for tasks in batches:
        state, _ = loop.advance(state)
        ahead, _ = loop.advance(ahead, tasks)

    assert torch.equal(state.parameters, ahead.parameters)
    assert torch.equal(state.second_moment, ahead.second_moment)
