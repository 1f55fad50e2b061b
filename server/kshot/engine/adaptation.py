"""One adaptation: a model, a support set and resolved options in, adapted arrays out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kshot.bundle import Head, Preconditioner, Scope
from kshot.engine.models import LoadedModel
from kshot.learner import (
    InnerLoopResult,
    StepRule,
    StopReason,
    build_inner_step,
    cycling_indices,
    logits_of,
    run_inner_loop,
    start_state,
)

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class AdaptationTask:
    """A prepared support set ``(n, channels, height, width)``, its classes ``(n,)``, options."""

    support: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    way: int
    step_count: int
    learning_rate: float
    batch_size: int
    preconditioner: Preconditioner
    head: Head
    scope: Scope
    seed: int

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what the front should not have let through."""
        if self.support.ndim != 4 or self.classes.shape != self.support.shape[:1]:
            raise ValueError(
                f"{self.classes.shape[0]} classes for a support set of {self.support.shape}, "
                "wanted (n, channels, height, width) and n classes"
            )
        if self.way < 2 or set(self.classes.tolist()) != set(range(self.way)):
            raise ValueError(f"classes must be 0..{self.way - 1}, each with an example")
        for name, value in (
            ("step_count", self.step_count),
            ("batch_size", self.batch_size),
            ("learning_rate", self.learning_rate),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}, wanted a number above 0")


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation made; without arrays when it diverged or did no step."""

    parameters: Arrays
    statistics: Arrays
    step_count: int
    stop_reason: StopReason
    support_losses: tuple[float, ...]
    support_accuracy: float
    compute_seconds: float


def adapt(
    model: LoadedModel, task: AdaptationTask, should_stop: Callable[[int], StopReason | None]
) -> Adaptation:
    """Run the inner loop, then take the support set's statistics and accuracy.

    Raises ``ValueError`` when the support set does not have the model's input shape, or the steps
    are more than the model's limit.
    """
    started = time.perf_counter()
    network = model.initialization.network
    most = model.bundle.manifest.limits.max_step_count
    if task.step_count > most:
        raise ValueError(f"step_count is {task.step_count}, model {model.name} allows {most}")
    if task.support.shape[1:] != tuple(network.input_shape):
        raise ValueError(
            f"support shape is {task.support.shape[1:]}, model {model.name} wants "
            f"{tuple(network.input_shape)}"
        )
    support = torch.from_numpy(task.support).to(model.device)
    classes = torch.from_numpy(task.classes).to(model.device)
    result = _run(model, task, support, classes, should_stop)
    losses = tuple(float(loss) for loss in result.losses[:, 0].cpu())
    if result.stop_reason is StopReason.DIVERGED or result.step_count == 0:
        elapsed = time.perf_counter() - started
        return Adaptation({}, {}, result.step_count, result.stop_reason, losses, 0.0, elapsed)
    parameters = result.state.layout.split(result.state.parameters)
    with torch.no_grad():  # on its own support set, transductive and frozen statistics are the same
        logits, statistics = logits_of(network, parameters, support[None])
    if not all(torch.isfinite(value).all().item() for value in statistics.values()):
        elapsed = time.perf_counter() - started
        return Adaptation({}, {}, result.step_count, StopReason.DIVERGED, losses, 0.0, elapsed)
    accuracy = int((logits[0].argmax(dim=1) == classes).sum()) / len(classes)
    return Adaptation(
        {name: value[0].cpu().numpy() for name, value in parameters.items()},
        {name: value[0].cpu().numpy() for name, value in statistics.items()},
        result.step_count,
        result.stop_reason,
        losses,
        accuracy,
        time.perf_counter() - started,
    )


def _run(
    model: LoadedModel,
    task: AdaptationTask,
    support: torch.Tensor,
    classes: torch.Tensor,
    should_stop: Callable[[int], StopReason | None],
) -> InnerLoopResult:
    inner = model.bundle.manifest.inner_loop
    rule = StepRule(
        task.preconditioner, task.learning_rate, inner.second_moment_decay, inner.epsilon
    )
    state = start_state(
        model.initialization,
        task.way,
        head=task.head,
        preconditioner=task.preconditioner,
        support=support,
        classes=classes,
    )
    indices = cycling_indices(support.shape[0], task.batch_size, task.step_count, task.seed)
    return run_inner_loop(
        build_inner_step(model.initialization.network, state.layout, rule, task.scope),
        state,
        support[None],
        classes[None],
        indices[None].to(support.device),
        rule,
        should_stop,
    )
