"""Slots: tasks join a running inner loop at its next step, and leave it independently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot.learner.steps.initialization import LoopState
from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.steps.loss_readback import LossReader
from kshot.learner.steps.ordered_step import common_order, in_order
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.step_tables import StepTables, TableStep

LEAST_EXAMPLES = 32


@dataclass(frozen=True)
class SlotTask:
    """One task: its start, with T = 1, its support set and the examples of each step.

    `support` `(n, channels, height, width)`, `classes` int64 `(n,)`, `indices` int64
    `(steps, batch)`. The tasks of some slots share the layout and the batch size, and whether v
    follows the gradients; all else is their own.
    """

    state: LoopState
    support: Tensor
    classes: Tensor
    indices: Tensor
    rule: StepRule

    @property
    def step_count(self) -> int:
        """Number of steps to take."""
        return self.indices.shape[0]


@dataclass(frozen=True)
class SlotResult:
    """The result of a task: parameters `(P,)` and the loss of each step taken `(steps,)`.

    `width` counts the rows of the widest launch that it took part in. Where a step tells,
    `answers` are the support set's logits `(n, way)` and batch statistics, one after another as the
    network lists them.
    """

    parameters: Tensor
    losses: Tensor
    width: int
    answers: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class SlotProgress:
    """How far a task has come that left its slot before its end: with this it goes on.

    `scales` `(P,)` are those of its steps' directions.
    """

    result: SlotResult
    scales: Tensor


@dataclass
class _Occupant:
    """The task in a slot, the steps it has done, and its widest launch."""

    handle: int
    step_count: int
    example_count: int
    done: int = 0
    width: int = 0


class Slots:
    """Buffers of the tasks that step together: `advance` takes one step of each.

    The tasks inside are the first rows of the buffers. A step is one launch of the least of
    `widths` that holds them all, or several of the greatest; a launch's rows without a task
    compute what nobody reads. For one thread.
    """

    def __init__(
        self,
        step_of_width: Callable[[int], InnerStep],
        widths: Sequence[int],
        capacity: int,
        max_step_count: int,
        like: SlotTask,
    ) -> None:
        """Allocate for tasks like the one given.

        Raises `ValueError` when the capacity is no multiple of the greatest width.
        """
        if capacity < 1 or capacity % max(widths):
            raise ValueError(
                f"capacity: expected a multiple of the widest launch of {tuple(widths)}, "
                f"got {capacity}"
            )
        steps = {width: step_of_width(width) for width in sorted(widths)}
        self._order = common_order(steps.values())
        self._steps = {width: in_order(step, self._order) for width, step in steps.items()}
        self._capacity = capacity
        self._occupants: list[_Occupant] = []
        self._handles = 0
        self._max_step_count = max_step_count
        vector, way_mask = like.state.parameters, like.state.real_ways
        zeros = vector.new_zeros
        shape = max_step_count, capacity, like.indices.shape[1]
        self._tables = StepTables(
            parameters=zeros(capacity, vector.shape[1]),
            scales=torch.ones(capacity, vector.shape[1], dtype=vector.dtype, device=vector.device),
            way_masks=way_mask.new_ones(capacity, way_mask.shape[1]),
            examples=like.support.new_zeros(0, *like.support.shape[1:]),
            drawn=like.classes.new_zeros(shape),
            targets=like.classes.new_zeros(shape),
            step_sizes=zeros(shape[:2]),
            losses=zeros(shape[:2]),
        )
        self._positions = like.classes.new_zeros(capacity)
        self._newest = zeros(capacity)
        self._rows = torch.arange(capacity, device=vector.device)
        self._examples_each = 0
        self._reader = LossReader(vector.device)

    def __len__(self) -> int:
        """Count the tasks inside."""
        return len(self._occupants)

    @property
    def full(self) -> bool:
        """Tell whether no task can join."""
        return len(self._occupants) == self._capacity

    def join(self, task: SlotTask, progress: SlotProgress | None = None) -> int:
        """Let a task take part from the next step on; return its handle.

        With the progress that `pause` gave, it goes on where it was.
        Raises `ValueError` when no slot is free or the steps are more than there is room for.
        """
        if self.full or task.step_count > self._max_step_count:
            raise ValueError(
                f"a task of {task.step_count} steps cannot join: {len(self)} of {self._capacity} "
                f"slots are taken, each for up to {self._max_step_count} steps"
            )
        if task.support.shape[0] > self._examples_each:
            self._make_room(task.support.shape[0])
        row, count = len(self._occupants), task.step_count
        first, tables = row * self._examples_each, self._tables
        tables.examples[first : first + task.support.shape[0]] = task.support
        self._enter(task.state.parameters[0], tables.parameters[row])
        self._enter(task.rule.scale_of(task.state.second_moment[0]), tables.scales[row])
        tables.way_masks[row] = task.state.real_ways[0]
        tables.drawn[:count, row] = task.indices + first
        tables.targets[:count, row] = task.classes[task.indices]
        sizes = task.rule.step_sizes(task.state.step, count)
        tables.step_sizes[:count, row] = torch.tensor(sizes, dtype=tables.step_sizes.dtype)
        self._positions[row] = 0
        self._handles += 1
        occupant = _Occupant(self._handles, count, task.support.shape[0])
        if progress is not None:
            self._go_on(row, occupant, progress)
        self._occupants.append(occupant)
        return self._handles

    def _go_on(self, row: int, occupant: _Occupant, progress: SlotProgress) -> None:
        tables, result = self._tables, progress.result
        occupant.done, occupant.width = len(result.losses), result.width
        self._enter(result.parameters, tables.parameters[row])
        self._enter(progress.scales, tables.scales[row])
        tables.losses[: occupant.done, row] = result.losses
        self._positions[row] = occupant.done

    def advance(self) -> dict[int, float]:
        """Take a step of every task inside; return the newest losses that are known.

        On a GPU those are of the step before: to wait for this step's would leave it idle. A task
        that has done its steps must have left before.
        """
        first = 0
        while first < len(self._occupants):
            first += self._launch(first)
        self._positions[: len(self._occupants)].add_(1)
        handles = [occupant.handle for occupant in self._occupants]
        return self._reader.read(handles, self._newest[: len(handles)])

    def _launch(self, first: int) -> int:
        """Step the tasks that fit into one launch, from a row on; return its width."""
        left = len(self._occupants) - first
        width = next((width for width in self._steps if width >= left), max(self._steps))
        part = slice(first, first + width)
        at = self._positions[part], self._rows[part]
        self._newest[part] = self._tables.take_step(self._steps[width], part, at)
        for occupant in self._occupants[part]:
            occupant.done += 1
            occupant.width = max(occupant.width, width)
        return width

    def steps_done(self, handle: int) -> int:
        """Count the steps that a task has taken."""
        return self._occupants[self._row(handle)].done

    def finished(self) -> list[int]:
        """Return the handles of the tasks that have taken all their steps."""
        return [item.handle for item in self._occupants if item.done == item.step_count]

    def pause(self, handle: int) -> SlotProgress:
        """Remove a task that shall go on later, in any slot of the same kind."""
        scales = self._left(self._tables.scales[self._row(handle)])
        return SlotProgress(self._vacate(handle, None), scales)

    def leave(self, handle: int) -> SlotResult:
        """Remove a task at any time; the others are not affected."""
        row, step = self._row(handle), self._steps[min(self._steps)]
        answers = None
        if isinstance(step, TableStep):
            first, count = row * self._examples_each, self._occupants[row].example_count
            examples = self._tables.examples[first : first + count]
            answers = step.evaluate(self._tables.parameters[row], examples)
        return self._vacate(handle, answers)

    def _vacate(self, handle: int, answers: tuple[Tensor, Tensor] | None) -> SlotResult:
        row, last = self._row(handle), len(self._occupants) - 1
        occupant = self._occupants[row]
        result = SlotResult(
            self._left(self._tables.parameters[row]),
            self._tables.losses[: occupant.done, row].clone(),
            occupant.width,
            answers,
        )
        if row != last:
            self._move(last, row)
            self._occupants[row] = self._occupants[last]
        self._positions[last] = 0  # a valid position, for launches that pad with this row
        self._occupants.pop()
        return result

    def _enter(self, vector: Tensor, row: Tensor) -> None:
        """Copy a task's vector `(P,)` into a row, in the order of the steps."""
        if self._order is None:
            row.copy_(vector)
        else:
            self._order.copy(vector[None], row[None], entering=True)

    def _left(self, vector: Tensor) -> Tensor:
        """Copy a row `(P,)` in the order that tasks have outside."""
        return vector.clone() if self._order is None else self._order.leave(vector[None])[0]

    def _row(self, handle: int) -> int:
        return [item.handle for item in self._occupants].index(handle)

    def _move(self, source: int, target: int) -> None:
        each, tables = self._examples_each, self._tables
        for rows in (tables.parameters, tables.scales, tables.way_masks, self._positions):
            rows[target] = rows[source]
        for table in (tables.drawn, tables.targets, tables.step_sizes, tables.losses):
            table[:, target] = table[:, source]
        tables.drawn[:, target] += (target - source) * each
        blocks = tables.examples.view(self._capacity, each, *tables.examples.shape[1:])
        blocks[target] = blocks[source]

    def _make_room(self, count: int) -> None:
        """Double each slot's room for examples until it holds this many."""
        each, tables = max(self._examples_each, LEAST_EXAMPLES), self._tables
        while each < count:
            each *= 2
        shape = tables.examples.shape[1:]
        examples = tables.examples.new_zeros(self._capacity, each, *shape)
        examples[:, : self._examples_each] = tables.examples.view(
            self._capacity, self._examples_each, *shape
        )
        tables.drawn.add_((self._rows * (each - self._examples_each))[:, None])
        self._tables = replace(tables, examples=examples.flatten(0, 1))
        self._examples_each = each
