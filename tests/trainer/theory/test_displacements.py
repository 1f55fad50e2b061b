"""How the inner steps of tasks become one outer update, to the last digits of float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kshot.bundle import Preconditioner
from kshot.learner import (
    LoopState,
    Network,
    Objective,
    StepRule,
    build_inner_step,
    layout_of,
    run_inner_loop,
)
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.tasks.training_tasks import SupportBatch

Loops = Callable[..., OuterLoop]
States = Callable[[Tensor], OuterState]

TASKS, EXAMPLES, STEPS, RATE = 3, 8, 5, 0.05


@pytest.fixture
def start() -> Tensor:
    return torch.tensor([0.4, -0.7, 1.3, 0.2], dtype=torch.float64)


@pytest.fixture
def tasks() -> SupportBatch:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(TASKS, EXAMPLES, 1, 1, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(TASKS, EXAMPLES, generator=generator, dtype=torch.float64)
    indices = torch.randint(EXAMPLES, (TASKS, STEPS, 3), generator=generator)
    return SupportBatch(inputs, targets, indices)


def path_of(task: SupportBatch, start: Tensor, preconditioner: str) -> Tensor:
    """Take one task's steps, written out: the parameters before, between and after, ``(k+1, 4)``.

    Adam starts with v and t at zero.
    """
    x, y = task.inputs[0].flatten(1), task.targets[0]
    vector, moment = start, torch.zeros_like(start)
    path = [start]
    for number, drawn in enumerate(task.indices[0], start=1):
        leaf = vector.clone().requires_grad_()
        outputs = leaf[2] * torch.tanh(x[drawn] @ leaf[:2]) + leaf[3]
        (gradient,) = torch.autograd.grad((outputs - y[drawn]).square().mean(), leaf)
        if preconditioner == "sgd":
            vector = vector - RATE * gradient
        else:
            moment = 0.999 * moment + 0.001 * gradient**2
            size = RATE * (1 - 0.999**number) ** 0.5
            vector = vector - size * gradient / (moment.sqrt() + 1e-8)
        path.append(vector)
    return torch.stack(path)


@pytest.mark.parametrize("preconditioner", ["sgd", "fresh"])
@pytest.mark.parametrize("meta_batch", ["serial", "stacked"])
@pytest.mark.parametrize(
    ("algorithm", "weights"),
    [
        ((1.0, 1.0, 0.0, -0.5, 2.0), (1.0, 1.0, 0.0, -0.5, 2.0)),
        ((0.0, 0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0, 0.0)),
        ((0.2,) * 5, (0.2,) * 5),
        ("reptile", (1.0,) * 5),
        ("fomaml", (0.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_the_update_is_the_weighted_sum_of_the_steps(
    curved: Network,
    loop_of: Loops,
    state_of: States,
    start: Tensor,
    tasks: SupportBatch,
    algorithm: str | tuple[float, ...],
    weights: tuple[float, ...],
    meta_batch: str,
    preconditioner: str,
) -> None:
    """``d = sum_i w_i (phi_{i+1} - phi_i)``, the mean over tasks; float64, 1e-13."""
    loop = loop_of(
        curved,
        algorithm,
        tasks,
        learning_rate=RATE,
        meta_batch=meta_batch,
        preconditioner=preconditioner,
    )

    advanced, _ = loop.advance(state_of(start))

    paths = [
        path_of(tasks.part(slice(task, task + 1)), start, preconditioner) for task in range(TASKS)
    ]
    steps = torch.stack(paths).diff(dim=1)  # (T, k, 4)
    wanted = (torch.tensor(weights, dtype=torch.float64)[:, None] * steps).sum(dim=1).mean(dim=0)
    assert wanted.norm() > 1e-3
    torch.testing.assert_close(advanced.parameters - start, wanted, atol=1e-13, rtol=0)
    assert torch.equal(advanced.second_moment, torch.zeros_like(start))
    assert advanced.step == 0


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml", "maml", (0.5, 0.0, 0.0, 0.0, 1.0)])
def test_a_batch_of_tasks_moves_by_the_mean_of_what_each_moves(
    curved: Network,
    loop_of: Loops,
    state_of: States,
    start: Tensor,
    tasks: SupportBatch,
    algorithm: str | tuple[float, ...],
) -> None:
    """Serial and stacked alike where no second moment goes from task to task; 1e-14."""
    alone = [
        loop_of(curved, algorithm, tasks.part(slice(task, task + 1)), learning_rate=RATE)
        .advance(state_of(start))[0]
        .parameters
        for task in range(TASKS)
    ]

    for meta_batch in ("serial", "stacked"):
        loop = loop_of(curved, algorithm, tasks, learning_rate=RATE, meta_batch=meta_batch)
        together, _ = loop.advance(state_of(start))
        torch.testing.assert_close(
            together.parameters, torch.stack(alone).mean(dim=0), atol=1e-14, rtol=0
        )


def test_a_whole_outer_step_on_one_task_ends_at_its_adapted_parameters(
    curved: Network, loop_of: Loops, state_of: States, start: Tensor, tasks: SupportBatch
) -> None:
    """``phi + 1 (phi~ - phi)`` is ``phi~``, its last bit but rounding (1e-15), with v and t too."""
    one = tasks.part(slice(0, 1))
    layout = layout_of(curved, 1)
    rule = StepRule(Preconditioner.CARRIED, RATE)
    step = build_inner_step(curved, layout, rule, objective=Objective.SQUARED_ERROR)
    fresh = LoopState(layout, start[None], torch.zeros(1, 4, dtype=torch.float64), 0)
    adapted = run_inner_loop(step, fresh, one.inputs, one.targets, one.indices, rule).state

    for meta_batch in ("serial", "stacked"):
        loop = loop_of(
            curved,
            "reptile",
            one,
            learning_rate=RATE,
            meta_batch=meta_batch,
            preconditioner="carried",
        )
        advanced, _ = loop.advance(state_of(start))
        torch.testing.assert_close(advanced.parameters, adapted.parameters[0], atol=1e-15, rtol=0)
        assert torch.equal(advanced.second_moment, adapted.second_moment[0])
        assert advanced.step == adapted.step == STEPS


def test_one_fresh_step_of_adam_moves_every_parameter_by_the_rate(
    curved: Network, loop_of: Loops, state_of: States, start: Tensor, tasks: SupportBatch
) -> None:
    """``-a g sqrt(1 - b2) / sqrt((1 - b2) g^2) = -a sign(g)``: epsilon costs 1e-6 of it."""
    one = tasks.part(slice(0, 1)).steps(slice(0, 1))
    moved = [
        loop_of(curved, "reptile", one, learning_rate=RATE, preconditioner=preconditioner)
        .advance(state_of(start))[0]
        .parameters
        - start
        for preconditioner in ("fresh", "sgd")
    ]

    torch.testing.assert_close(moved[0], RATE * moved[1].sign(), atol=0, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml"])
def test_a_separate_tail_is_one_more_step_on_its_own_examples(
    curved: Network,
    loop_of: Loops,
    state_of: States,
    start: Tensor,
    tasks: SupportBatch,
    algorithm: str,
) -> None:
    """The tail's batch is of another size than those before it; float64, 1e-13."""
    tail = torch.tensor([7, 5]).expand(TASKS, -1)
    apart = SupportBatch(tasks.inputs, tasks.targets, tasks.indices % 5, tail)
    loop = loop_of(curved, algorithm, apart, learning_rate=RATE)

    advanced, _ = loop.advance(state_of(start))

    ends = []
    for task in range(TASKS):
        early = apart.part(slice(task, task + 1)).steps(slice(0, STEPS))
        before = path_of(early, start, "sgd")[-1]
        last = apart.part(slice(task, task + 1)).steps(slice(STEPS, STEPS + 1))
        after = path_of(last, before, "sgd")[-1]
        ends.append(after - (start if algorithm == "reptile" else before))
    torch.testing.assert_close(
        advanced.parameters - start, torch.stack(ends).mean(dim=0), atol=1e-13, rtol=0
    )


def test_weights_decay_before_the_gradient_is_taken(
    linear: Callable[[int], Network], loop_of: Loops, state_of: States
) -> None:
    """By hand: ``w x + b`` with w = 2, b = 1 becomes w = 1, b = 0.5 at rate 0.5.

    On (x, y) = (1, 0) its error is then 1.5 and its gradient 3 in both; with a = 0.1 the step ends
    at w = 0.7, b = 0.2. The second one halves again, to 0.35 and 0.1, where the gradient is 0.9: it
    ends at w = 0.26, b = 0.01.
    """
    one = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    task = SupportBatch(
        one, torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 2, 1, dtype=torch.int64)
    )
    start = torch.tensor([2.0, 1.0], dtype=torch.float64)

    for algorithm, wanted in (("reptile", [0.26, 0.01]), ("fomaml", [2 - 0.44, 1 - 0.19])):
        loop = loop_of(linear(1), algorithm, task, learning_rate=0.1, weight_decay_rate=0.5)
        advanced, _ = loop.advance(state_of(start))
        assert advanced.parameters.tolist() == pytest.approx(wanted, abs=1e-15)
