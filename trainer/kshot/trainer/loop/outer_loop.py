"""The outer loop: adaptations to tasks move the initialization, for every algorithm."""

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from kshot.bundle import Preconditioner
from kshot.learner import (
    InnerLoopResult,
    InnerStep,
    LoopState,
    Network,
    Objective,
    ParameterLayout,
    QueryGradient,
    StepRule,
    maml_gradient,
    run_inner_loop,
    with_prototype_heads,
)
from kshot.trainer.loop.algorithms import Algorithm
from kshot.trainer.loop.outer_state import Adaptations, OuterState, updated
from kshot.trainer.loop.workers import ALONE, Workers
from kshot.trainer.recipe.recipe import Outer
from kshot.trainer.tasks.training_tasks import SupportBatch, TrainingTasks


@dataclass(frozen=True)
class OuterLoop:
    """One meta-training: its settings, its tasks and its inner steps.

    `tail_step` takes the last inner step if its batch has another size. With a `query_gradient` the
    tail is answered like queries instead, and that gradient is the outer one.
    """

    outer: Outer
    algorithm: Algorithm
    tasks: TrainingTasks
    network: Network
    layout: ParameterLayout
    objective: Objective
    rule: StepRule
    inner_step: InnerStep
    tail_step: InnerStep
    query_gradient: QueryGradient | None = None
    prototype_head: bool = False
    workers: Workers = ALONE

    def advance(
        self, state: OuterState, drawn: SupportBatch | None = None
    ) -> tuple[OuterState, Tensor]:
        """Do one meta-iteration; return the new state and `Adaptations.loss`.

        Tasks that are not `drawn` ahead are drawn here. On a GPU nothing here waits for the device.
        """
        if drawn is None:
            drawn = self.tasks.draw(state.meta_iteration)
        batch = self.tasks.load(drawn, self.workers.own(self.outer.meta_batch_size))
        adapt = self._adapt_serially if self.outer.meta_batch == "serial" else self._adapt_together
        adaptations = adapt(state, batch)
        return updated(state, adaptations, self.outer, self.rule.learning_rate), adaptations.loss

    def _adapt_serially(self, state: OuterState, batch: SupportBatch) -> Adaptations:
        """Adapt to one task after another and carry v between them, as the paper's code does."""
        second_moment, step = state.second_moment, state.step
        displacement = torch.zeros_like(state.parameters)
        losses = []
        for task in range(len(batch)):
            start = LoopState(self.layout, state.parameters[None], second_moment[None], step)
            moved, end, loss = self._displace(start, batch.part(slice(task, task + 1)))
            displacement += moved[0]
            if self.rule.preconditioner is Preconditioner.CARRIED:
                second_moment, step = end.second_moment[0], end.step
            losses.append(loss)
        return Adaptations(
            displacement / len(batch), second_moment, step, torch.stack(losses).mean()
        )

    def _adapt_together(self, state: OuterState, batch: SupportBatch) -> Adaptations:
        """Adapt to all tasks side by side from the same v; the next v is the mean of theirs."""
        task_count = len(batch)
        # Copied, not expanded: the first inner step then has the strides of those that follow.
        parameters, second_moment = (
            vector.repeat(task_count, 1) for vector in (state.parameters, state.second_moment)
        )
        start = LoopState(self.layout, parameters, second_moment, state.step)
        moved, end, loss = self._displace(start, batch)
        # One vector, so that processes exchange one message.
        sums = torch.cat([moved.sum(dim=0), end.second_moment.sum(dim=0), loss[None] * task_count])
        displacement, second_moment, mean_loss = torch.split(
            self.workers.total(sums) / self.outer.meta_batch_size,
            [self.layout.size, self.layout.size, 1],
        )
        if self.rule.preconditioner is not Preconditioner.CARRIED:
            return Adaptations(displacement, state.second_moment, state.step, mean_loss[0])
        return Adaptations(displacement, second_moment, end.step, mean_loss[0])

    def _displace(self, start: LoopState, batch: SupportBatch) -> tuple[Tensor, LoopState, Tensor]:
        """Adapt to T tasks: their displacements `(T, P)`, the end, and `Adaptations.loss`.

        `d = w_1 (phi_2 - phi_1) + ... + w_k (phi_{k+1} - phi_k)`, of inner SGD `-a` times the
        algorithm's gradient.
        """
        if self.algorithm.second_order:
            return self._displace_through_steps(start, batch)
        if self.query_gradient is not None:
            return self._displace_by_queries(start, batch, self.query_gradient)
        displacements, losses = [], []
        state, tail = start, batch.indices.shape[1]
        for weight, steps in self.algorithm.runs(tail):
            step = self.tail_step if steps.start == tail else self.inner_step
            result = self._adapt(step, state, batch.steps(steps))
            if weight:
                displacements.append(weight * (result.state.parameters - state.parameters))
            state = result.state
            losses.append(result.losses)
        return reduce(torch.add, displacements), state, torch.cat(losses).mean()

    def _adapt(self, step: InnerStep, state: LoopState, batch: SupportBatch) -> InnerLoopResult:
        return run_inner_loop(step, state, batch.inputs, batch.targets, batch.indices, self.rule)

    def _displace_by_queries(
        self, start: LoopState, batch: SupportBatch, query_gradient: QueryGradient
    ) -> tuple[Tensor, LoopState, Tensor]:
        """Adapt by all steps but the tail's, and turn the tail's gradient into displacements.

        The loss is the tail's.
        """
        assert batch.early is not None and batch.tail is not None  # noqa: S101 -- checked
        support, support_classes = batch.take(batch.early)
        examples = (support, support_classes, *batch.take(batch.tail))
        initialization, adapted = start.parameters, start
        displacement = torch.zeros_like(initialization)
        if batch.indices.shape[1]:
            if self.prototype_head:
                vectors = with_prototype_heads(
                    self.network, self.layout, start.parameters, support, support_classes
                )
                start = replace(start, parameters=vectors)
            adapted = self._adapt(self.inner_step, start, batch).state
            displacement = adapted.parameters - start.parameters
        gradient, losses = query_gradient(
            initialization, displacement, *(tensor.contiguous() for tensor in examples)
        )
        return -self.rule.learning_rate * gradient, adapted, losses.mean()

    def _displace_through_steps(
        self, start: LoopState, batch: SupportBatch
    ) -> tuple[Tensor, LoopState, Tensor]:
        """Turn MAML's gradient of T tasks into displacements, each their mean."""
        indices = [*batch.indices.unbind(1), *([] if batch.tail is None else [batch.tail])]
        *steps, last = (batch.take(drawn) for drawn in indices)
        initial = start.parameters[0]
        gradient, losses = maml_gradient(
            self.network, self.layout, initial, steps, last, self.rule, self.objective
        )
        displacement = (-self.rule.learning_rate * gradient).expand(len(batch), -1)
        return displacement, start, losses.mean()
