"""The solver: adapts to sampled tasks and answers their queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Calibration, Head, Manifest, Scope
from kshot.learner import (
    Initialization,
    InnerStep,
    LoopState,
    Parameters,
    StepRule,
    balanced_indices,
    build_inner_step,
    cycling_indices,
    derive_seed,
    graphed,
    layout_of,
    query_logits,
    run_inner_loop,
    stack_states,
    start_state,
)
from kshot.trainer.datasets.device_images import DevicePixels, to_device
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.tasks.episodes import EpisodeBatch


@dataclass(frozen=True)
class TaskSolver:
    """Adapts to tasks and answers their queries, with all options resolved.

    Without `calibration`, the answers are the network's own.
    """

    initialization: Initialization
    pixels: DevicePixels
    way: int
    step_count: int
    batch_size: int
    rule: StepRule
    head: Head
    scope: Scope
    seed: int
    inner_step: InnerStep
    calibration: Calibration | None = None
    balance_classes: bool = False

    def adapt(self, episodes: EpisodeBatch, first_task: int) -> Parameters:
        """Adapt to T stacked tasks: `{name: (T, *shape)}`.

        `first_task` is the number of the first task: a task's batches depend on its number, not on
        the tasks beside it.
        """
        (adapted,) = self.trajectory(episodes, first_task, [self.step_count])
        return adapted

    def trajectory(
        self, episodes: EpisodeBatch, first_task: int, step_counts: Sequence[int]
    ) -> Iterator[Parameters]:
        """Adapt to T stacked tasks and yield the parameters after each of the growing step counts.

        Fewer steps take the first of the same batches, so each yielded value equals, bit for bit,
        an adaptation by that number of steps alone.
        """
        support = self.pixels.take(episodes.support)
        classes = to_device(episodes.support_classes, support.device)
        indices = torch.stack(
            [
                self._deal(labels, step_counts[-1], derive_seed(self.seed, task))
                for task, labels in enumerate(episodes.support_classes, first_task)
            ]
        )
        indices = to_device(indices, support.device)
        state = self._start(support, classes)
        for done, wanted in pairwise([0, *step_counts]):
            part = indices[:, done:wanted]
            ran = run_inner_loop(self.inner_step, state, support, classes, part, self.rule)
            state = ran.state
            yield state.layout.split(state.parameters)

    def answer(self, parameters: Parameters, episodes: EpisodeBatch, mode: BatchNormMode) -> Tensor:
        """Answer the queries of T adapted tasks: probabilities, float32 `(T, queries, way)`.

        As in service, they are the softmax of the logits over the bundle's temperature.
        """
        logits = self.logits(parameters, episodes, mode)
        if self.calibration is not None:
            support_count = episodes.support.shape[1]
            logits = logits / self.calibration.temperature(mode, self.way, support_count)
        return torch.softmax(logits, dim=-1).cpu()

    def logits(self, parameters: Parameters, episodes: EpisodeBatch, mode: BatchNormMode) -> Tensor:
        """Return the network's own logits for the queries: float32 `(T, queries, way)`."""
        with torch.no_grad():
            return query_logits(
                self.initialization.network,
                parameters,
                self.pixels.take(episodes.queries),
                self.pixels.take(episodes.support),
                mode,
            )

    def _deal(self, classes: Tensor, step_count: int, seed: int) -> Tensor:
        """Draw the examples of a task's steps: int64 `(step_count, batch_size)`."""
        if self.balance_classes:
            return balanced_indices(classes, self.batch_size, step_count, seed)
        return cycling_indices(len(classes), self.batch_size, step_count, seed)

    def _start(self, support: Tensor, classes: Tensor) -> LoopState:
        """Stack the states of T tasks before their first step."""
        return stack_states(
            [
                start_state(
                    self.initialization,
                    self.way,
                    head=self.head,
                    preconditioner=self.rule.preconditioner,
                    support=images,
                    classes=labels,
                )
                for images, labels in zip(support, classes, strict=True)
            ]
        )


def build_solver(
    initialization: Initialization,
    manifest: Manifest,
    pixels: DevicePixels,
    settings: EvaluationSettings,
) -> TaskSolver:
    """Build a solver from settings, with the manifest's defaults for what they leave out."""
    inner = manifest.inner_loop
    step_count = settings.step_count
    if step_count is None:
        step_count = manifest.default_step_count(settings.way, settings.way * settings.shot)
    batch_size, learning_rate = settings.batch_size, settings.learning_rate
    if batch_size is None:
        batch_size = manifest.default_batch_size(settings.way)
    if learning_rate is None:
        learning_rate = inner.learning_rate
    head, scope = settings.head or manifest.head.default, settings.scope or manifest.scope.default
    if settings.baseline is Baseline.PROTOTYPE:
        step_count, head = 0, Head.PROTOTYPE
    if settings.baseline is Baseline.ANIL:
        scope = Scope.HEAD
    scope = scope.of_steps  # no tail is adapted here
    rule = StepRule(
        settings.preconditioner or inner.preconditioner,
        learning_rate,
        inner.second_moment_decay,
        inner.epsilon,
        1.0 if inner.weight_decay_rate is None else inner.weight_decay_rate,
    )
    layout = layout_of(initialization.network, settings.way)
    step = build_inner_step(initialization.network, layout, rule, scope)
    return TaskSolver(
        initialization=initialization,
        pixels=pixels,
        way=settings.way,
        step_count=step_count,
        batch_size=batch_size,
        rule=rule,
        head=head,
        scope=scope,
        seed=settings.seed,
        inner_step=graphed(step, pixels.images.device),
        calibration=manifest.calibration if settings.calibrated else None,
        balance_classes=settings.balance_classes,
    )
