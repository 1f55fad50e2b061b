"""The driver of every inner loop: it gathers a step's batch, takes the step, keeps the losses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner.steps.inner_step import InnerStep

At = int | tuple[Tensor, Tensor]
"""Where in the tables a step stands: the number of a step that all tasks take, or each task's own
number and row, both int64 `(tasks,)`."""

EVERY = slice(None)


@dataclass(frozen=True)
class StepTables:
    """The state of T tasks inside their inner loops, and what each of their steps sees.

    `parameters` and `scales` `(T, P)` and `way_masks` `(T, way)` are those of an `InnerStep`, which
    updates the first two in place. The tasks share `examples` `(n, channels, height, width)`: step
    s of task t sees those numbered `drawn[s, t]`, with `targets[s, t]`, both `(steps, T, batch)`,
    and `step_sizes[s, t]`. Its loss is kept in `losses[s, t]`.
    """

    parameters: Tensor
    scales: Tensor
    way_masks: Tensor
    examples: Tensor
    drawn: Tensor
    targets: Tensor
    step_sizes: Tensor
    losses: Tensor

    @staticmethod
    def of(
        parameters: Tensor,
        scales: Tensor,
        way_masks: Tensor,
        support: Tensor,
        targets: Tensor,
        indices: Tensor,
        step_sizes: Tensor,
    ) -> "StepTables":
        """Lay out tasks that take all their steps together; parameters and scales are updated.

        `support` `(T, n, channels, height, width)`, `targets` `(T, n)`; `indices` int64
        `(T, steps, batch)` number the examples, of a task's n, that each step sees; `step_sizes`
        `(steps, T)`.
        """
        task_count, example_count = targets.shape
        first = torch.arange(task_count, device=indices.device).unsqueeze(1) * example_count
        drawn = (indices.transpose(0, 1) + first).contiguous()
        return StepTables(
            parameters,
            scales,
            way_masks,
            support.flatten(0, 1).contiguous(),  # what is taken from them is contiguous then
            drawn,
            targets.flatten()[drawn],
            step_sizes,
            torch.empty_like(step_sizes),
        )

    def take_step(self, step: InnerStep, tasks: slice, at: At) -> Tensor:
        """Take one step of neighbouring tasks; return its losses `(tasks,)`, which are kept too."""
        if isinstance(step, TableStep):
            return step.take_from(self, tasks, at, 1)
        losses = step(
            self.parameters[tasks],
            self.scales[tasks],
            self.examples[self.drawn[at]],
            self.targets[at],
            self.way_masks[tasks],
            self.step_sizes[at],
        )
        self.losses[at] = losses
        return losses

    def take_steps(self, step: InnerStep) -> Tensor:
        """Take all steps of all tasks together; return their losses `(steps, T)`."""
        if isinstance(step, TableStep):
            step.take_from(self, EVERY, 0, len(self.drawn))
        else:
            for number in range(len(self.drawn)):
                self.take_step(step, EVERY, number)
        return self.losses


class TableStep(ABC):
    """An `InnerStep` that takes its batches from the tables by itself, of several steps at once."""

    @abstractmethod
    def __call__(
        self,
        parameters: Tensor,
        scale: Tensor,
        inputs: Tensor,
        targets: Tensor,
        way_mask: Tensor,
        step_sizes: Tensor,
        /,
    ) -> Tensor:
        """Take a step of given batches, as any `InnerStep` does."""

    @abstractmethod
    def take_from(self, tables: StepTables, tasks: slice, at: At, step_count: int) -> Tensor:
        """Take steps of neighbouring tasks from where they stand on, and keep all losses.

        Returns those of the last step `(tasks,)`. Tasks at places of their own are those of the
        rows in the slice.
        """

    @abstractmethod
    def evaluate(self, parameters: Tensor, examples: Tensor) -> tuple[Tensor, Tensor] | None:
        """Answer examples `(n, channels, height, width)` that are normalized together.

        `parameters` `(P,)` are a row of the tables. Returns logits `(n, way)` and the statistics
        used, one after another as the network lists them; None where there are too many examples.
        """
