from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.learner import InnerStep, cycling_indices, derive_seed, replacement_indices
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import first_state
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import EpisodeBatch, sample_episodes
from kshot.trainer.tasks.meta_batch import ImageTasks
from kshot.trainer.tasks.seeds import TASKS

CPU = torch.device("cpu")
Loop = OuterLoop


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
    inner = images_of(loop).recipe.inner
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
    batches = [loop.tasks.draw(number) for number in (2, 3, 4)]
    for tasks in batches:
        state, _ = loop.advance(state)
        ahead, _ = loop.advance(ahead, tasks)

    assert torch.equal(state.parameters, ahead.parameters)
    assert torch.equal(state.second_moment, ahead.second_moment)


def reference_path(
    loop: Loop, start: OuterState, images: Tensor, targets: Tensor, batches: list[Tensor]
) -> Tensor:
    """Take one task's steps, written out: parameters before, between and after, ``(k + 1, P)``.

    The weights decay first; "fresh" is Adam from v and t of zero.
    """
    inner = images_of(loop).recipe.inner
    vector, moment = start.parameters, torch.zeros_like(start.parameters)
    path = [vector]
    for step, batch in enumerate(batches, start=1):
        leaf = (vector * inner.weight_decay_rate).requires_grad_()
        loss = reference_loss(loop, leaf, images[batch], targets[batch])
        (gradient,) = torch.autograd.grad(loss, leaf)
        decay = inner.second_moment_decay
        moment = decay * moment + (1 - decay) * gradient**2
        if inner.preconditioner == "fresh":
            gradient = (1 - decay**step) ** 0.5 * gradient / (moment.sqrt() + inner.epsilon)
        vector = leaf.detach() - inner.learning_rate * gradient
        path.append(vector)
    return torch.stack(path)


WITHOUT_CARRIED = ("serving.preconditioners=['fresh']", "serving.preconditioner=fresh")
SGD = ("inner.preconditioner=sgd", "inner.learning_rate=0.1", *WITHOUT_CARRIED)
# An epsilon of Adam far above the rounding of gradients, which would else become whole steps.
FRESH = ("inner.preconditioner=fresh", "inner.epsilon=1e-3", *WITHOUT_CARRIED)
WEIGHTED = ("outer.algorithm=weighted", "outer.gradient_weights=[0.5, 0.0, 1.0]")
TAIL = ("task.tail_shot=1", "inner.batch_size=2")


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        pytest.param((*SGD, "outer.algorithm=fomaml"), (0, 0, 1), id="fomaml"),
        pytest.param((*SGD, *TAIL, "outer.algorithm=fomaml"), (0, 0, 1), id="separate tail"),
        pytest.param((*SGD, *TAIL), (1, 1, 1), id="reptile with a tail"),
        pytest.param((*SGD, *WEIGHTED), (0.5, 0, 1), id="weighted"),
        pytest.param((*SGD, *TAIL, *WEIGHTED), (0.5, 0, 1), id="weighted with a tail"),
        pytest.param((*SGD, "inner.sampling=replacement"), (1, 1, 1), id="replacement"),
        pytest.param((*SGD, "inner.weight_decay_rate=0.9"), (1, 1, 1), id="weight decay"),
        pytest.param(FRESH, (1, 1, 1), id="fresh"),
        pytest.param((*FRESH, "outer.algorithm=fomaml"), (0, 0, 1), id="fresh fomaml"),
    ],
)
def test_a_recipes_algorithm_is_the_one_written_out(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    settings: tuple[str, ...],
    weights: tuple[float, ...],
    meta_batch: str,
) -> None:
    """``d = sum_i w_i (phi_{i+1} - phi_i)``, mean over tasks; 2e-6 in float32."""
    recipe = small_recipe(
        *settings,
        *(f"outer.meta_batch={meta_batch}", "inner.step_count=3", "outer.meta_step_size=0.5"),
    )
    loop = make_loop(recipe, patterns())
    state = first_state(loop, CPU)

    advanced, _ = loop.advance(state)

    tasks = loop.tasks.draw(0)
    moved = []
    for task in range(len(tasks)):
        batches = list(tasks.indices[task])
        batches += [] if tasks.tail is None else [tasks.tail[task]]
        images = images_of(loop).pixels.take(tasks.inputs[task])
        path = reference_path(loop, state, images, tasks.targets[task], batches)
        moved.append((torch.tensor(weights)[:, None] * path.diff(dim=0)).sum(dim=0))
    displacement = torch.stack(moved).mean(dim=0)
    assert displacement.abs().max() > 1e-4
    torch.testing.assert_close(
        advanced.parameters - state.parameters, 0.5 * displacement, atol=2e-6, rtol=1e-3
    )
    assert torch.equal(advanced.second_moment, torch.zeros_like(state.parameters))
    assert advanced.step == 0


@pytest.mark.parametrize("tail", [(), TAIL], ids=["shared tail", "separate tail"])
def test_maml_is_the_gradient_of_the_last_loss_written_out(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    tail: tuple[str, ...],
) -> None:
    """Serial and stacked; its displacement is -a times the gradient: 2e-6 in float32."""
    dataset = patterns()
    maml = (*SGD, *tail, "outer.algorithm=maml", "inner.step_count=3")
    loops = [
        make_loop(small_recipe(*maml, f"outer.meta_batch={meta_batch}"), dataset)
        for meta_batch in ("serial", "stacked")
    ]
    state = first_state(loops[0], CPU)
    tasks = loops[0].tasks.draw(0)
    leaf = state.parameters.clone().requires_grad_()
    last_losses = []
    for task in range(len(tasks)):
        images = images_of(loops[0]).pixels.take(tasks.inputs[task])
        batches = list(tasks.indices[task])
        batches += [] if tasks.tail is None else [tasks.tail[task]]
        vector: Tensor = leaf
        for number, batch in enumerate(batches):
            loss = reference_loss(loops[0], vector, images[batch], tasks.targets[task][batch])
            if number < 2:
                (gradient,) = torch.autograd.grad(loss, vector, create_graph=True)
                vector = vector - 0.1 * gradient
        last_losses.append(loss)
    (wanted,) = torch.autograd.grad(torch.stack(last_losses).mean(), leaf)

    for loop in loops:
        advanced, loss = loop.advance(state)
        moved = advanced.parameters - state.parameters
        assert moved.abs().max() > 1e-3
        torch.testing.assert_close(moved, -0.1 * wanted, atol=2e-6, rtol=1e-3)
        assert float(loss) == pytest.approx(torch.stack(last_losses).mean().item(), rel=1e-5)


def test_an_outer_adam_steps_by_its_rate_whatever_the_inner_one(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """Its first step is the rate times the sign of the mean displacement; v goes on as it did."""
    dataset = patterns()
    adam, plain = (
        make_loop(small_recipe(f"outer.optimizer={name}", "outer.meta_step_size=0.01"), dataset)
        for name in ("adam", "sgd")
    )
    state = first_state(adam, CPU)
    assert state.moments is not None

    advanced, _ = adam.advance(state)
    again, _ = adam.advance(advanced)
    reference, _ = plain.advance(replace(state, moments=None))

    moved = advanced.parameters - state.parameters
    displacement = (reference.parameters - state.parameters) / 0.01
    clear = displacement.abs() > 1e-5  # of the rounding of parameters
    assert clear.double().mean() > 0.9
    torch.testing.assert_close(moved[clear], 0.01 * displacement[clear].sign(), atol=1e-5, rtol=0)
    assert torch.equal(advanced.second_moment, reference.second_moment)
    assert again.moments is not None
    assert not torch.equal(again.moments.first, state.moments.first)


def test_a_separate_tail_is_of_examples_that_no_other_step_sees(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """All ``way * tail_shot`` of them, as many of each class; the others cycle through the rest."""
    settings = ("task.shot=5", "task.tail_shot=2", "inner.step_count=4", "inner.batch_size=3")
    loop = make_loop(small_recipe(*settings), patterns())

    for meta_iteration in range(3):
        tasks = loop.tasks.draw(meta_iteration)
        assert tasks.tail is not None
        assert tasks.indices.shape == (2, 3, 3)  # the tail is the fourth step
        for task in range(len(tasks)):
            tail, early = tasks.tail[task], tasks.indices[task].flatten()
            assert len(set(tail.tolist())) == len(tail) == 6
            assert tasks.targets[task][tail].bincount().tolist() == [2, 2, 2]
            assert sorted([*early.tolist(), *tail.tolist()]) == list(range(15))


@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
def test_a_separate_tail_goes_through_the_step_of_its_size(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset], meta_batch: str
) -> None:
    """Compiled, a step takes batches of one size only; here four of the tail, three before it."""
    settings = ("task.way=4", "task.tail_shot=1", "inner.step_count=3")
    loop = make_loop(small_recipe(*settings, f"outer.meta_batch={meta_batch}"), patterns())
    sizes: dict[str, list[int]] = {"inner": [], "tail": []}

    def recorded(name: str, step: InnerStep) -> InnerStep:
        def record(*arguments: Tensor) -> Tensor:
            sizes[name].append(arguments[2].shape[1])
            return step(*arguments)

        return record

    watched = replace(
        loop,
        inner_step=recorded("inner", loop.inner_step),
        tail_step=recorded("tail", loop.tail_step),
    )
    watched.advance(some_state(loop))

    launches = 2 if meta_batch == "serial" else 1
    assert sizes == {"inner": [3] * 2 * launches, "tail": [4] * launches}


def test_replacement_draws_every_batch_from_all_early_examples(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    settings = ("task.shot=3", "task.tail_shot=1", "inner.batch_size=4", "inner.step_count=5")
    loop = make_loop(small_recipe("inner.sampling=replacement", *settings), patterns())

    tasks = loop.tasks.draw(2)

    early = torch.tensor([0, 1, 3, 4, 6, 7])  # of three examples a class the last is the tail's
    seed = derive_seed(images_of(loop).recipe.outer.seed, TASKS, 2)
    for task in range(len(tasks)):
        wanted = early[replacement_indices(6, 4, 4, derive_seed(seed, task))]
        assert torch.equal(tasks.indices[task], wanted)


def test_a_shared_tail_cycles_like_the_steps_before_it(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """Six examples in batches of three: every two steps see each once, so a third repeats."""
    loop = make_loop(small_recipe("inner.step_count=4"), patterns())

    tasks = loop.tasks.draw(0)

    assert tasks.tail is None
    for task in range(len(tasks)):
        for two in tasks.indices[task].reshape(2, 6):
            assert sorted(two.tolist()) == list(range(6))


def test_fixed_labels_are_the_classes_of_the_whole_data_set(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    """Plain pre-training: images of all classes, each class with its own row of the head."""
    dataset = patterns(class_count=6, image_count=4)
    recipe = small_recipe(
        *("task.labels=fixed", "task.way=6", "task.shot=1", "outer.algorithm=joint"),
        *("inner.step_count=1", "inner.batch_size=40", "outer.meta_batch_size=1"),
    )
    loop = make_loop(recipe, dataset)
    state = some_state(loop)

    tasks = loop.tasks.draw(0)
    advanced, loss = loop.advance(state)

    assert torch.equal(tasks.targets, tasks.inputs // 4)
    assert tasks.targets.unique().tolist() == list(range(6))
    images = images_of(loop).pixels.take(tasks.inputs[0])
    wanted = reference_loss(loop, state.parameters, images, tasks.targets[0])
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    assert not torch.equal(advanced.parameters, state.parameters)
