"""Adaptation to sampled tasks and the answers to their queries, all options resolved."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.learner import (
    Initialization,
    InnerStep,
    Parameters,
    StepRule,
    build_inner_step,
    cycling_indices,
    derive_seed,
    layout_of,
    query_logits,
    run_inner_loop,
    stack_states,
    start_state,
)
from kshot.trainer.episodes import EpisodeBatch
from kshot.trainer.errors import TrainingError
from kshot.trainer.pixels import DevicePixels, to_device


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate: the tasks, the inner loop and the batch-norm mode.

    ``query_count`` is per class. What is None is the bundle's default.
    """

    way: int
    shot: int
    query_count: int
    task_count: int
    batch_norm_mode: BatchNormMode
    step_count: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    preconditioner: Preconditioner | None = None
    head: Head | None = None
    scope: Scope | None = None
    seed: int = 0


@dataclass(frozen=True)
class TaskSolver:
    """Adapts to tasks and answers their queries, all options resolved."""

    initialization: Initialization
    pixels: DevicePixels
    way: int
    step_count: int
    batch_size: int
    rule: StepRule
    head: Head
    seed: int
    inner_step: InnerStep

    def adapt(self, episodes: EpisodeBatch, first_task: int) -> Parameters:
        """Adapt to T stacked tasks: ``{name: (T, *shape)}``.

        ``first_task`` numbers the tasks, so that a task draws the same batches in any company.
        """
        support = self.pixels.take(episodes.support)
        classes = to_device(episodes.support_classes, support.device)
        starts = [
            start_state(
                self.initialization,
                self.way,
                head=self.head,
                preconditioner=self.rule.preconditioner,
                support=support[task],
                classes=classes[task],
            )
            for task in range(len(episodes))
        ]
        indices = [
            cycling_indices(
                support.shape[1], self.batch_size, self.step_count, derive_seed(self.seed, task)
            )
            for task in range(first_task, first_task + len(episodes))
        ]
        adapted = run_inner_loop(
            self.inner_step,
            stack_states(starts),
            support,
            classes,
            to_device(torch.stack(indices), support.device),
            self.rule,
            watch_divergence=False,
        ).state
        return adapted.layout.split(adapted.parameters)

    def answer(self, parameters: Parameters, episodes: EpisodeBatch, mode: BatchNormMode) -> Tensor:
        """Answer the queries of T adapted tasks: probabilities, float32 ``(T, queries, way)``."""
        with torch.no_grad():
            logits = query_logits(
                self.initialization.network,
                parameters,
                self.pixels.take(episodes.queries),
                self.pixels.take(episodes.support),
                mode,
            )
        return torch.softmax(logits, dim=-1).cpu()


def build_solver(
    initialization: Initialization,
    manifest: Manifest,
    pixels: DevicePixels,
    settings: EvaluationSettings,
) -> TaskSolver:
    """Resolve settings against a manifest's defaults.

    Raises ``TrainingError`` when a count or a rate is not positive.
    """
    inner = manifest.inner_loop
    step_count = inner.step_count if settings.step_count is None else settings.step_count
    batch_size = (
        manifest.default_batch_size(settings.way)
        if settings.batch_size is None
        else settings.batch_size
    )
    learning_rate = (
        inner.learning_rate if settings.learning_rate is None else settings.learning_rate
    )
    for name, value in (
        ("step count", step_count),
        ("batch size", batch_size),
        ("learning rate", learning_rate),
    ):
        if not value > 0:
            raise TrainingError(f"{name} is {value}, wanted more than 0")
    rule = StepRule(
        settings.preconditioner or inner.preconditioner,
        learning_rate,
        inner.second_moment_decay,
        inner.epsilon,
    )
    step = build_inner_step(
        initialization.network,
        layout_of(initialization.network, settings.way),
        rule,
        settings.scope or manifest.scope.default,
    )
    return TaskSolver(
        initialization,
        pixels,
        settings.way,
        step_count,
        batch_size,
        rule,
        settings.head or manifest.head.default,
        settings.seed,
        step,
    )
