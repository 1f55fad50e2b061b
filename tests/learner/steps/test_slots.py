from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.bundle import Head, Preconditioner, Scope
from kshot.learner import (
    Initialization,
    InnerLoopResult,
    InnerStep,
    SlotResult,
    Slots,
    SlotTask,
    StepRule,
    build_inner_step,
    cycling_indices,
    layout_of,
    run_inner_loop,
    start_state,
)

BUCKET, BATCH, MOST_STEPS = 5, 4, 20
CARRIED = StepRule(Preconditioner.CARRIED, 1e-3)
SHAPES = [
    (capacity, widths)
    for capacity in (1, 2, 3, 4, 8)
    for widths in ((1,), (1, 2), (1, 2, 4), (4,))
    if capacity % max(widths) == 0
]


def _task(
    initialization: Initialization,
    seed: int,
    *,
    way: int = BUCKET,
    shot: int = 2,
    step_count: int = 8,
    rule: StepRule = CARRIED,
    dtype: torch.dtype = torch.float64,
) -> SlotTask:
    state = start_state(
        initialization,
        way,
        head=Head.TRAINED,
        preconditioner=rule.preconditioner,
        bucket=BUCKET,
    )
    state = replace(
        state,
        parameters=state.parameters.to(dtype),
        second_moment=state.second_moment.to(dtype),
    )
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(way * shot, 1, 12, 12, generator=generator, dtype=torch.float64)
    classes = torch.arange(way).repeat_interleave(shot)
    indices = cycling_indices(way * shot, BATCH, step_count, seed)
    return SlotTask(state, images.to(dtype), classes, indices, rule)


def _step(
    initialization: Initialization, rule: StepRule = CARRIED, scope: Scope = Scope.ALL
) -> InnerStep:
    network = initialization.network
    return build_inner_step(network, layout_of(network, BUCKET), rule, scope)


def _slots(
    initialization: Initialization,
    like: SlotTask,
    widths: Sequence[int] = (1, 2, 4),
    capacity: int = 4,
    scope: Scope = Scope.ALL,
) -> Slots:
    step = _step(initialization, like.rule, scope)
    return Slots(lambda _width: step, widths, capacity, MOST_STEPS, like)


def _alone(
    initialization: Initialization,
    task: SlotTask,
    stay: int | None = None,
    scope: Scope = Scope.ALL,
) -> InnerLoopResult:
    return run_inner_loop(
        _step(initialization, task.rule, scope),
        task.state,
        task.support[None],
        task.classes[None],
        task.indices[None, :stay],
        task.rule,
    )


@dataclass(frozen=True)
class Visit:
    """A task that joins at a step at the earliest, and leaves after ``stay`` steps."""

    task: SlotTask
    arrival: int = 0
    stay: int | None = None

    @property
    def last(self) -> int:
        return self.task.step_count if self.stay is None else self.stay


def _serve(slots: Slots, visits: Sequence[Visit]) -> list[tuple[SlotResult, list[float]]]:
    """Let tasks come and go, first come first served: their results and the losses reported."""
    waiting = sorted(range(len(visits)), key=lambda visit: visits[visit].arrival)
    inside: dict[int, int] = {}
    results: dict[int, SlotResult] = {}
    losses: list[list[float]] = [[] for _ in visits]
    step = 0
    while waiting or inside:
        while waiting and visits[waiting[0]].arrival <= step and not slots.full:
            visit = waiting.pop(0)
            inside[slots.join(visits[visit].task)] = visit
        assert len(slots) == len(inside)
        for handle, loss in (slots.advance() if inside else {}).items():
            losses[inside[handle]].append(loss)
        for handle, visit in list(inside.items()):
            if slots.steps_done(handle) == visits[visit].last:
                assert (handle in slots.finished()) == (visits[visit].stay is None)
                results[visit] = slots.leave(handle)
                del inside[handle]
        step += 1
    return [(results[visit], losses[visit]) for visit in range(len(visits))]


def _mixed(initialization: Initialization, dtype: torch.dtype = torch.float64) -> list[Visit]:
    """Tasks that differ in way, shot, steps, rate, preconditioner, arrival and stay."""
    fresh = StepRule(Preconditioner.FRESH, 1e-4)
    fast = StepRule(Preconditioner.CARRIED, 2e-3)

    def task(seed: int, **others: object) -> SlotTask:
        return _task(initialization, seed, dtype=dtype, **others)

    return [
        Visit(task(1, step_count=12)),
        Visit(task(2, way=3, shot=1, step_count=3)),
        Visit(task(3, way=2, shot=5, step_count=10, rule=fresh), arrival=1),
        Visit(task(4, way=4, shot=20, rule=fast), arrival=2),
        Visit(task(5, step_count=20), arrival=2, stay=5),
        Visit(task(6, step_count=1), arrival=3),
        Visit(task(7, way=2, shot=1, rule=fresh), arrival=4, stay=1),
        Visit(task(8, shot=3, step_count=6), arrival=6),
    ]


def _assert_as_alone(
    initialization: Initialization,
    visits: Sequence[Visit],
    outcomes: Sequence[tuple[SlotResult, list[float]]],
    tolerance: float = 1e-10,
) -> None:
    for visit, (result, losses) in zip(visits, outcomes, strict=True):
        alone = _alone(initialization, visit.task, visit.last)
        torch.testing.assert_close(
            result.parameters, alone.state.parameters[0], rtol=0, atol=tolerance
        )
        torch.testing.assert_close(result.losses, alone.losses[:, 0], rtol=0, atol=tolerance)
        assert losses == result.losses.tolist()


@pytest.mark.parametrize(("capacity", "widths"), SHAPES)
def test_tasks_that_come_and_go_end_as_alone(
    initialization: Initialization, capacity: int, widths: tuple[int, ...]
) -> None:
    """The support sets grow on the way, and every loss is reported to its own task, once."""
    visits = _mixed(initialization)
    slots = _slots(initialization, visits[0].task, widths, capacity)

    outcomes = _serve(slots, visits)

    _assert_as_alone(initialization, visits, outcomes)
    assert len(slots) == 0
    assert all(min(widths) <= result.width <= max(widths) for result, _ in outcomes)


def test_tasks_in_float32_end_as_alone_within_their_rounding(
    initialization: Initialization,
) -> None:
    """To 1e-4 after at most 12 steps: their sums run in another order."""
    visits = _mixed(initialization, torch.float32)

    outcomes = _serve(_slots(initialization, visits[0].task, (1, 2, 4), 8), visits)

    _assert_as_alone(initialization, visits, outcomes, 1e-4)


def test_frozen_rates_and_plain_gradients_share_slots(initialization: Initialization) -> None:
    rules = [StepRule(Preconditioner.FROZEN, 1e-4), StepRule(Preconditioner.SGD, 0.05)]
    visits = [
        Visit(_task(initialization, seed, rule=rules[seed % 2]), arrival=seed) for seed in range(4)
    ]

    outcomes = _serve(_slots(initialization, visits[0].task), visits)

    _assert_as_alone(initialization, visits, outcomes)


def test_scope_head_leaves_the_bodies(initialization: Initialization) -> None:
    visits = [Visit(_task(initialization, seed), arrival=seed) for seed in range(3)]

    outcomes = _serve(_slots(initialization, visits[0].task, scope=Scope.HEAD), visits)

    for visit, (result, _) in zip(visits, outcomes, strict=True):
        state = visit.task.state
        body = state.layout.body_size
        alone = _alone(initialization, visit.task, scope=Scope.HEAD)
        assert result.parameters[:body].equal(state.parameters[0, :body])
        torch.testing.assert_close(result.parameters, alone.state.parameters[0], rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    actions=st.lists(
        st.one_of(
            st.just("advance"),
            st.tuples(st.integers(2, BUCKET), st.integers(1, 12), st.integers(1, 6)),
            st.integers(0, 7),
        ),
        max_size=40,
    ),
)
def test_any_order_of_joining_and_leaving_ends_as_alone(
    initialization: Initialization,
    shape: tuple[int, tuple[int, ...]],
    actions: list[str | tuple[int, int, int] | int],
) -> None:
    """An action takes a step, joins with a way, a shot and a step count, or leaves."""
    capacity, widths = shape
    slots = _slots(initialization, _task(initialization, 0), widths, capacity)
    inside: dict[int, SlotTask] = {}
    steps: dict[int, int] = {}
    losses: dict[int, list[float]] = {}

    def leave(handle: int) -> None:
        result, task = slots.leave(handle), inside.pop(handle)
        alone = _alone(initialization, task, steps[handle])
        torch.testing.assert_close(result.parameters, alone.state.parameters[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(result.losses, alone.losses[:, 0], rtol=0, atol=1e-10)
        assert losses[handle] == result.losses.tolist()

    for seed, action in enumerate([*actions, *[0] * capacity]):
        if action == "advance":
            for handle, loss in slots.advance().items():
                losses[handle].append(loss)
                steps[handle] += 1
            assert {handle for handle in inside if steps[handle] == inside[handle].step_count} == (
                set(slots.finished())
            )
            for handle in slots.finished():
                leave(handle)
        elif isinstance(action, tuple) and not slots.full:
            way, shot, step_count = action
            task = _task(initialization, seed, way=way, shot=shot, step_count=step_count)
            handle = slots.join(task)
            assert handle not in losses
            inside[handle], steps[handle], losses[handle] = task, 0, []
        elif isinstance(action, int) and inside:
            leave(sorted(inside)[action % len(inside)])
        assert {handle: slots.steps_done(handle) for handle in inside} == {
            handle: steps[handle] for handle in inside
        }
    assert len(slots) == 0


def _poisoned(initialization: Initialization, how: str) -> SlotTask:
    if how == "support":
        task = _task(initialization, 99)
        return replace(task, support=torch.full_like(task.support, torch.nan))
    return _task(initialization, 99, rule=StepRule(Preconditioner.CARRIED, float("inf")))


@pytest.mark.parametrize("widths", [(1,), (4,), (1, 2, 4)])
@pytest.mark.parametrize("how", ["support", "rate"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_poisoned_neighbour_changes_nothing(
    initialization: Initialization, widths: tuple[int, ...], how: str, place: int
) -> None:
    """Neither while it is inside, nor in whoever takes its row or its padding after it left."""
    visits = [Visit(_task(initialization, seed)) for seed in range(3)]
    visits.insert(place, Visit(_poisoned(initialization, how), stay=4))
    visits += [Visit(_task(initialization, 7, shot=1), arrival=5)]
    visits += [Visit(_task(initialization, 8), arrival=6)]

    outcomes = _serve(_slots(initialization, visits[0].task, widths), visits)

    poisoned, _ = outcomes.pop(place)
    assert not poisoned.parameters.isfinite().all()
    visits.pop(place)
    _assert_as_alone(initialization, visits, outcomes)


def test_losses_follow_their_task_when_rows_move(initialization: Initialization) -> None:
    tasks = [_task(initialization, seed) for seed in range(4)]
    slots = _slots(initialization, tasks[0])
    handles = [slots.join(task) for task in tasks]
    slots.advance()
    slots.leave(handles[0])
    slots.leave(handles[2])

    losses = slots.advance()

    assert set(losses) == {handles[1], handles[3]}
    for place in (1, 3):
        expected = _alone(initialization, tasks[place], 2).losses[1, 0].item()
        assert losses[handles[place]] == pytest.approx(expected, abs=1e-10)


def test_a_growing_support_set_does_not_disturb_those_inside(
    initialization: Initialization,
) -> None:
    """Twice: beyond the first room for examples, and beyond its double."""
    visits = [
        Visit(_task(initialization, 1, shot=1)),
        Visit(_task(initialization, 2, shot=9), arrival=2),
        Visit(_task(initialization, 3, shot=40), arrival=4),
        Visit(_task(initialization, 4, shot=1), arrival=5),
    ]

    outcomes = _serve(_slots(initialization, visits[0].task), visits)

    _assert_as_alone(initialization, visits, outcomes)


def test_the_tasks_given_are_left_as_they_are(initialization: Initialization) -> None:
    task = _task(initialization, 1)
    before = [part.clone() for part in _tensors(task)]
    slots = _slots(initialization, task)
    handle = slots.join(task)

    slots.advance()

    result = slots.leave(handle)
    for part, old in zip(_tensors(task), before, strict=True):
        assert part.equal(old)
    kept = result.parameters.clone()
    slots.join(_task(initialization, 2))
    slots.advance()
    assert result.parameters.equal(kept)


def _tensors(task: SlotTask) -> list[torch.Tensor]:
    state = task.state
    return [state.parameters, state.second_moment, task.support, task.classes, task.indices]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_launches_of_one_give_equal_bytes_whatever_the_company(
    initialization: Initialization, dtype: torch.dtype
) -> None:
    task = _task(initialization, 1, dtype=dtype)
    alone = _alone(initialization, task)
    for place in range(4):
        company = [Visit(_task(initialization, 10 + n, dtype=dtype), stay=3 + n) for n in range(4)]
        company[place] = Visit(task)
        slots = _slots(initialization, task, (1,), 4)

        result, _ = _serve(slots, company)[place]

        assert result.parameters.equal(alone.state.parameters[0])
        assert result.losses.equal(alone.losses[:, 0])
        assert result.width == 1


def test_a_result_names_its_widest_launch(initialization: Initialization) -> None:
    visits = [
        Visit(_task(initialization, 1, step_count=2)),
        Visit(_task(initialization, 2, step_count=12)),
        Visit(_task(initialization, 3, step_count=4), arrival=4),
        Visit(_task(initialization, 4, step_count=4), arrival=4),
        Visit(_task(initialization, 5, step_count=2), arrival=12),
    ]

    outcomes = _serve(_slots(initialization, visits[0].task), visits)

    assert [result.width for result, _ in outcomes] == [2, 4, 4, 4, 1]


def test_each_width_has_its_own_step(initialization: Initialization) -> None:
    """The least that holds all; several of the greatest when there are more."""
    asked: list[int] = []
    launched: list[int] = []
    inner = _step(initialization)

    def step_of_width(width: int) -> InnerStep:
        asked.append(width)

        def step(*arguments: torch.Tensor) -> torch.Tensor:
            assert {len(argument) for argument in arguments} == {width}
            assert all(argument.is_contiguous() for argument in arguments)
            launched.append(width)
            return inner(*arguments)

        return step

    task = _task(initialization, 1)
    slots = Slots(step_of_width, (4, 1, 2), 8, MOST_STEPS, task)
    for _ in range(7):
        slots.join(task)
        slots.advance()

    assert sorted(asked) == [1, 2, 4]
    assert launched == [1, 2, 4, 4, 4, 1, 4, 2, 4, 4]


def _full(initialization: Initialization) -> Slots:
    task = _task(initialization, 1)
    slots = _slots(initialization, task, (1,), 1)
    slots.join(task)
    assert slots.full
    return slots


def test_no_task_joins_full_slots(initialization: Initialization) -> None:
    slots = _full(initialization)

    with pytest.raises(ValueError, match="8 steps cannot join: 1 of 1 slots are taken"):
        slots.join(_task(initialization, 2))

    assert len(slots) == 1


def test_no_task_joins_with_more_steps_than_there_is_room_for(
    initialization: Initialization,
) -> None:
    task = _task(initialization, 1)
    slots = _slots(initialization, task)

    with pytest.raises(
        ValueError, match=r"21 steps cannot join: 0 of 4 .* each for up to 20 steps"
    ):
        slots.join(_task(initialization, 1, step_count=MOST_STEPS + 1))

    assert len(slots) == 0


@pytest.mark.parametrize(("capacity", "widths"), [(0, (1,)), (3, (1, 2)), (6, (4,)), (2, (1, 4))])
def test_the_capacity_is_a_multiple_of_the_greatest_width(
    initialization: Initialization, capacity: int, widths: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=f"capacity: expected a multiple of .* got {capacity}"):
        _slots(initialization, _task(initialization, 1), widths, capacity)


@pytest.mark.parametrize("ask", [Slots.leave, Slots.steps_done])
def test_a_handle_that_has_left_is_unknown(
    initialization: Initialization, ask: Callable[[Slots, int], object]
) -> None:
    slots = _slots(initialization, _task(initialization, 1))
    handle = slots.join(_task(initialization, 1))
    slots.leave(handle)

    with pytest.raises(ValueError, match="is not in list"):
        ask(slots, handle)


def test_empty_slots_advance_by_nothing(initialization: Initialization) -> None:
    slots = _slots(initialization, _task(initialization, 1))

    assert slots.advance() == {}
    assert slots.finished() == []
