import pytest
import torch

from kshot.bundle import Head, Preconditioner, Scope
from kshot.learner import (
    Conv4,
    Initialization,
    LoopState,
    StepRule,
    build_inner_step,
    cycling_indices,
    layout_of,
    loss_gradients,
    run_inner_loop,
    stack_states,
    start_state,
)

RATES = {
    Preconditioner.CARRIED: 1e-3,
    Preconditioner.FROZEN: 1e-4,
    Preconditioner.FRESH: 1e-4,
    Preconditioner.SGD: 0.05,
}
Tasks = tuple[LoopState, torch.Tensor, torch.Tensor, torch.Tensor]


def _tasks(
    initialization: Initialization,
    preconditioner: Preconditioner,
    ways: list[int],
    dtype: torch.dtype = torch.float64,
    bucket: int = 5,
) -> Tasks:
    """Stack tasks of several ways with 10 examples each and 20 steps of 4."""
    generator = torch.Generator().manual_seed(5)
    states = [
        start_state(
            initialization, way, head=Head.TRAINED, preconditioner=preconditioner, bucket=bucket
        )
        for way in ways
    ]
    state = stack_states(states)
    state = LoopState(
        state.layout,
        state.parameters.to(dtype),
        state.second_moment.to(dtype),
        state.step,
        state.way_mask,
    )
    support = torch.rand(len(ways), 10, 1, 12, 12, generator=generator, dtype=torch.float64)
    classes = torch.stack([torch.arange(10) % way for way in ways])
    indices = torch.stack([cycling_indices(10, 4, 20, seed) for seed in range(len(ways))])
    return state, support.to(dtype), classes, indices


def _part(tasks: Tasks, task: int) -> Tasks:
    state, support, classes, indices = tasks
    one = slice(task, task + 1)
    mask = None if state.way_mask is None else state.way_mask[one]
    alone = LoopState(
        state.layout, state.parameters[one], state.second_moment[one], state.step, mask
    )
    return alone, support[one], classes[one], indices[one]


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_tasks_together_equal_tasks_alone(
    initialization: Initialization,
    preconditioner: Preconditioner,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """After 20 steps; in float32 a preconditioned step magnifies the rounding of sums.

    So does a ReLU whose input is within a rounding of zero, by what its unit's gradient moves.
    """
    rule = StepRule(preconditioner, RATES[preconditioner])
    tasks = _tasks(initialization, preconditioner, [5, 2, 3, 5], dtype)
    step = build_inner_step(initialization.network, tasks[0].layout, rule)

    together = run_inner_loop(step, *tasks, rule)

    for task in range(4):
        alone = run_inner_loop(step, *_part(tasks, task), rule)
        torch.testing.assert_close(
            together.state.parameters[task], alone.state.parameters[0], rtol=0, atol=tolerance
        )
        torch.testing.assert_close(
            together.losses[:, task], alone.losses[:, 0], rtol=0, atol=tolerance
        )


def test_a_poisoned_neighbour_changes_nothing(initialization: Initialization) -> None:
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    tasks = _tasks(initialization, Preconditioner.CARRIED, [5, 5, 5])
    step = build_inner_step(initialization.network, tasks[0].layout, rule)
    tasks[1][1] = torch.nan

    together = run_inner_loop(step, *tasks, rule)

    for task in (0, 2):
        alone = run_inner_loop(step, *_part(tasks, task), rule)
        torch.testing.assert_close(
            together.state.parameters[task], alone.state.parameters[0], rtol=0, atol=1e-10
        )
    assert not together.state.parameters[1].isfinite().all()


def test_padded_ways_change_nothing(initialization: Initialization) -> None:
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    results = {}
    for bucket in (3, 8):
        tasks = _tasks(initialization, Preconditioner.CARRIED, [3], bucket=bucket)
        step = build_inner_step(initialization.network, tasks[0].layout, rule)
        state = run_inner_loop(step, *tasks, rule).state
        results[bucket] = state.layout.split(state.parameters)

    for name, value in results[3].items():
        padded = results[8][name]
        if name.startswith("head."):
            assert not padded[:, 3:].any()
            padded = padded[:, :3]
        torch.testing.assert_close(padded, value, rtol=0, atol=1e-10)


def test_gradients_are_finite_differences(
    network: Conv4, initialization: Initialization, support: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, classes = support
    layout = layout_of(network, 5)
    point = layout.join(initialization.parameters).unsqueeze(0)

    every_way = torch.ones(1, 5, dtype=torch.bool)
    task = images[None], classes[None], every_way

    def loss(vector: torch.Tensor) -> float:
        return loss_gradients(network, layout, vector, *task)[1].item()

    gradient, _ = loss_gradients(network, layout, point, *task)

    generator = torch.Generator().manual_seed(3)
    for position in torch.randperm(layout.size, generator=generator)[:40].tolist():
        nudge = torch.zeros_like(point)
        nudge[0, position] = 1e-6
        difference = (loss(point + nudge) - loss(point - nudge)) / 2e-6
        assert gradient[0, position].item() == pytest.approx(difference, rel=1e-4, abs=1e-7)


def test_scope_head_leaves_the_body(initialization: Initialization) -> None:
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    tasks = _tasks(initialization, Preconditioner.CARRIED, [5])
    step = build_inner_step(initialization.network, tasks[0].layout, rule, Scope.HEAD)

    adapted = run_inner_loop(step, *tasks, rule).state

    body = tasks[0].layout.body_size
    assert adapted.parameters[:, :body].equal(tasks[0].parameters[:, :body])
    assert adapted.second_moment[:, :body].equal(tasks[0].second_moment[:, :body])
    assert not adapted.parameters[:, body:].isclose(tasks[0].parameters[:, body:]).any()


def test_permuting_labels_permutes_answers_of_a_zero_head(
    initialization: Initialization,
) -> None:
    rule = StepRule(Preconditioner.SGD, 0.05)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    heads = []
    for relabel in (torch.arange(5), permutation):
        _, support, classes, indices = _tasks(initialization, Preconditioner.SGD, [5])
        state = start_state(initialization, 5, head=Head.ZERO, preconditioner=Preconditioner.SGD)
        step = build_inner_step(initialization.network, state.layout, rule)
        adapted = run_inner_loop(step, state, support, relabel[classes], indices, rule).state
        heads.append(adapted.layout.split(adapted.parameters)["head.weight"][0])

    torch.testing.assert_close(heads[1][permutation], heads[0], rtol=0, atol=1e-10)


def test_the_loss_falls(initialization: Initialization) -> None:
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    tasks = _tasks(initialization, Preconditioner.CARRIED, [5])
    step = build_inner_step(initialization.network, tasks[0].layout, rule)

    result = run_inner_loop(step, *tasks, rule)

    assert result.losses.shape == (20, 1)
    assert result.state.step == tasks[0].step + 20
    assert result.losses[-5:].mean() < 0.8 * result.losses[:5].mean()


def test_the_state_and_the_support_given_are_left_as_they_are(
    initialization: Initialization,
) -> None:
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    tasks = _tasks(initialization, Preconditioner.CARRIED, [5, 3])
    state, support, *_ = tasks
    before = [part.clone() for part in (state.parameters, state.second_moment, support)]
    step = build_inner_step(initialization.network, state.layout, rule)

    adapted = run_inner_loop(step, *tasks, rule).state

    assert (adapted.parameters != state.parameters).any()
    assert (adapted.second_moment != state.second_moment).any()
    for part, old in zip((state.parameters, state.second_moment, support), before, strict=True):
        assert part.equal(old)


def test_a_step_gets_contiguous_tensors_of_its_own(initialization: Initialization) -> None:
    """A compiled step does not look at strides: these tasks share one start and one image order."""
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    state, support, classes, indices = _tasks(initialization, Preconditioner.CARRIED, [5, 5])
    shared = LoopState(
        state.layout,
        state.parameters[:1].expand(2, -1),
        state.second_moment.T.contiguous().T,
        state.step,
        torch.ones(1, 5, dtype=torch.bool).expand(2, -1),
    )
    seen = []

    def step(*arguments: torch.Tensor) -> torch.Tensor:
        seen.extend(argument.is_contiguous() for argument in arguments)
        return torch.zeros(2)

    last_first = support.movedim(-1, 0).contiguous().movedim(0, -1)
    turned = last_first, classes.T.contiguous().T
    run_inner_loop(step, shared, *turned, indices, rule)

    assert len(seen) == 6 * 20
    assert all(seen)


def test_a_frozen_rate_keeps_the_second_moment(initialization: Initialization) -> None:
    rule = StepRule(Preconditioner.FROZEN, 1e-4)
    tasks = _tasks(initialization, Preconditioner.FROZEN, [5])
    step = build_inner_step(initialization.network, tasks[0].layout, rule)

    adapted = run_inner_loop(step, *tasks, rule).state

    assert adapted.second_moment.equal(tasks[0].second_moment)
    assert adapted.step == tasks[0].step


def test_parts_of_a_loop_are_the_whole(initialization: Initialization) -> None:
    """Also where a part has no step."""
    rule = StepRule(Preconditioner.CARRIED, 1e-2)
    state, support, classes, indices = _tasks(initialization, Preconditioner.CARRIED, [5, 3])
    step = build_inner_step(initialization.network, state.layout, rule)
    whole = run_inner_loop(step, state, support, classes, indices, rule)

    losses = []
    for part in (indices[:, :7], indices[:, 7:7], indices[:, 7:]):
        result = run_inner_loop(step, state, support, classes, part, rule)
        state = result.state
        losses.append(result.losses)

    assert [len(each) for each in losses] == [7, 0, 13]
    assert torch.cat(losses).equal(whole.losses)
    assert state.parameters.equal(whole.state.parameters)
    assert state.step == whole.state.step
