"""Accuracy of an initialization: adapt to sampled tasks, answer their queries, count."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Bundle, Head, Manifest, Preconditioner, Scope
from kshot.learner import (
    Initialization,
    InnerStep,
    Parameters,
    StepRule,
    build_inner_step,
    compile_step,
    cycling_indices,
    derive_seed,
    layout_of,
    query_logits,
    run_inner_loop,
    stack_states,
    start_state,
)
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import EpisodeBatch, sample_episodes
from kshot.trainer.errors import TrainingError
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.statistics import accuracy_interval, expected_calibration_error

# On one core stacked tasks gain nothing; a GPU wants many.
TASKS_AT_ONCE = {"cpu": 1, "cuda": 64}
LEAST_LIKELIHOOD = 1e-12


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
class EvaluationResult:
    """Accuracy and calibration in 0..1 (``nll`` in nats), and milliseconds of a task.

    ``ci95`` is the half width of the 95 % interval that ``ci_method`` names.
    """

    accuracy: float
    ci95: float
    ci_method: str
    ece: float
    nll: float
    task_count: int
    step_count: int
    ms_per_task: float


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
        classes = episodes.support_classes.to(support.device)
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
            torch.stack(indices).to(support.device),
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
    *,
    compiled: bool = False,
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
        compile_step(step) if compiled else step,
    )


def evaluate(
    solver: TaskSolver,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    modes: Sequence[BatchNormMode],
    *,
    tasks_at_once: int = 1,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[BatchNormMode, EvaluationResult]:
    """Evaluate in several modes on the same adaptations of tasks drawn from the settings' seed.

    The same seed draws the same tasks whatever the other settings. Raises ``DataError`` when the
    data set is too small for such tasks.
    """
    task_count = settings.task_count
    episodes = sample_episodes(
        dataset,
        task_count,
        settings.way,
        settings.shot,
        settings.query_count,
        torch.Generator().manual_seed(derive_seed(settings.seed)),
    )
    answers: dict[BatchNormMode, list[Tensor]] = {mode: [] for mode in modes}
    adapting = _Stopwatch()
    answering = {mode: _Stopwatch() for mode in modes}
    for first in range(0, task_count, tasks_at_once):
        some = episodes.part(first, first + tasks_at_once)
        with adapting:
            parameters = solver.adapt(some, first)
        for mode in modes:
            with answering[mode]:
                answers[mode].append(solver.answer(parameters, some, mode))
        report(first + len(some), task_count)
    return {
        mode: _score(
            torch.cat(answers[mode]),
            episodes.query_classes,
            solver.step_count,
            (adapting.seconds + answering[mode].seconds) * 1e3 / task_count,
        )
        for mode in modes
    }


def _score(
    probabilities: Tensor, classes: Tensor, step_count: int, ms_per_task: float
) -> EvaluationResult:
    """Score probabilities ``(tasks, queries, way)`` against classes ``(tasks, queries)``."""
    correct = (probabilities.argmax(dim=-1) == classes).sum(dim=1)
    interval = accuracy_interval(correct.numpy(), classes.shape[1])
    likelihoods = probabilities.gather(2, classes.unsqueeze(2)).clamp_min(LEAST_LIKELIHOOD)
    return EvaluationResult(
        accuracy=interval.mean,
        ci95=interval.half_width,
        ci_method=interval.method,
        ece=expected_calibration_error(
            probabilities.flatten(0, 1).numpy(), classes.flatten().numpy()
        ),
        nll=float(-likelihoods.log().mean()),
        task_count=classes.shape[0],
        step_count=step_count,
        ms_per_task=ms_per_task,
    )


class _Stopwatch:
    """Adds up the wall-clock seconds of the blocks that it guards."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def evaluate_bundle(
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvaluationResult:
    """Evaluate a bundle's initialization.

    Raises ``TrainingError`` when its weights do not fit its network, ``DataError`` when the data
    set does not fit its input.
    """
    manifest = bundle.manifest
    try:
        initialization = Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise TrainingError(f"bundle {bundle.path} cannot be used: {error}") from None
    pixels = DevicePixels.load(dataset, manifest.input, device)
    solver = build_solver(initialization, manifest, pixels, settings)
    mode = settings.batch_norm_mode
    tasks_at_once = TASKS_AT_ONCE[device.type]
    results = evaluate(
        solver, dataset, settings, [mode], tasks_at_once=tasks_at_once, report=report
    )
    return results[mode]
