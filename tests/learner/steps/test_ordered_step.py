import pytest
import torch
from torch import Tensor

from kshot.bundle import Preconditioner, Scope
from kshot.learner import (
    Initialization,
    InnerStep,
    Slots,
    SlotTask,
    StepRule,
    build_inner_step,
    layout_of,
    run_inner_loop,
)
from kshot.learner.steps.initialization import LoopState
from kshot.learner.steps.ordered_step import OrderedStep, ParameterOrder

RULE = StepRule(Preconditioner.CARRIED, 1e-3)


class Reversed(ParameterOrder):
    """The last parameter first."""

    def copy(self, vectors: Tensor, target: Tensor, *, entering: bool) -> None:
        del entering  # it is undone by itself
        target.copy_(vectors.flip(1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed)

    __hash__ = None  # type: ignore[assignment]  # nobody needs one


@pytest.fixture
def steps(initialization: Initialization) -> tuple[InnerStep, OrderedStep]:
    """The same step in the plain order and in one of its own."""
    network, order = initialization.network, Reversed()
    plain = build_inner_step(network, layout_of(network, 5), RULE, Scope.ALL)

    def ordered(parameters: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        moved = [order.leave(vectors) for vectors in (parameters, scale)]
        losses = plain(*moved, *others)  # type: ignore[call-arg]  # its four other arguments
        for vectors, left in zip((parameters, scale), moved, strict=True):
            order.copy(left, vectors, entering=True)
        return losses

    return plain, OrderedStep(ordered, order)


@pytest.fixture
def task(start: object, support: tuple[torch.Tensor, torch.Tensor]) -> SlotTask:
    images, classes = support
    state: LoopState = start(Preconditioner.CARRIED)  # type: ignore[operator]  # a fixture's function
    return SlotTask(state, images, classes, torch.arange(24).reshape(6, 4) % 10, RULE)


def test_the_loop_and_each_call_keep_the_plain_order(
    steps: tuple[InnerStep, OrderedStep], task: SlotTask
) -> None:
    ordered = steps[1]
    arguments = task.support[None], task.classes[None], task.indices[None], RULE
    expected = run_inner_loop(steps[0], task.state, *arguments)

    in_loop = run_inner_loop(ordered, task.state, *arguments)
    by_calls = run_inner_loop(lambda *given: ordered(*given), task.state, *arguments)

    for got in (in_loop, by_calls):
        torch.testing.assert_close(got.losses, expected.losses, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            (got.state.parameters, got.state.second_moment),
            (expected.state.parameters, expected.state.second_moment),
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.parametrize("mixed", [False, True])
def test_slots_give_and_take_the_plain_order(
    steps: tuple[InnerStep, OrderedStep], task: SlotTask, mixed: bool
) -> None:
    """A task that pauses and goes on in other slots; with a step of another order among theirs."""
    plain, ordered = steps
    by_width = {1: ordered, 2: plain if mixed else ordered}
    first, second = (Slots(by_width.__getitem__, (1, 2), 2, 6, task) for _ in range(2))
    handle = first.join(task)
    for _ in range(2):
        first.advance()

    handle = second.join(task, first.pause(handle))
    for _ in range(4):
        second.advance()
    result = second.leave(handle)

    expected = run_inner_loop(
        plain, task.state, task.support[None], task.classes[None], task.indices[None], RULE
    )
    torch.testing.assert_close(result.losses, expected.losses[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(result.parameters, expected.state.parameters[0], rtol=0, atol=1e-12)
