"""The inner step of an evaluation, compiled where that works and saves more than it takes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kshot.bundle import Manifest
from kshot.learner import (
    CompilationError,
    InnerStep,
    StepCache,
    StepSpec,
    compile_step,
    compiler_name,
    default_cache_folder,
)
from kshot.trainer.errors import TrainingError
from kshot.trainer.task_solver import TaskSolver

__all__ = ["compiled_solver"]

# On one core compiling takes about thirty seconds, and saves three milliseconds of each step.
WORTHWHILE_STEPS = 10_000


def compiled_solver(
    solver: TaskSolver,
    manifest: Manifest,
    *,
    step_count: int,
    tasks_at_once: int,
    compiled: bool | None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> TaskSolver:
    """Return the solver with its inner step compiled; as it is where that is not wanted or fails.

    With None for ``compiled`` the step is compiled on a CPU, where a compiler is found, when it was
    compiled before or ``step_count``, of all tasks together, is worth it; ``say`` hears of it.
    Raises ``TrainingError`` when ``compiled`` asks for what cannot be.
    """
    device = next(iter(solver.initialization.parameters.values())).device
    if compiled is False or not step_count:
        return solver
    spec = StepSpec.of(manifest, solver.way, solver.batch_size, solver.rule, solver.scope)
    spec = spec.of_tasks(tasks_at_once)
    if compiled is None and (
        device.type != "cpu"
        or compiler_name(device) is None
        or (step_count < WORTHWHILE_STEPS and not _compiled_before(spec, device))
    ):
        return solver
    if not _compiled_before(spec, device):
        say("compiling the inner step")
    try:
        step = compile_step(spec, device)
        step(*spec.example_arguments(device))
    except (CompilationError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if compiled:
            raise TrainingError(reason) from error
        say(f"{reason}; the evaluation is slower without")
        return solver
    say("the inner step is compiled")
    return replace(solver, inner_step=_for_full_parts(step, solver.inner_step, tasks_at_once))


def _compiled_before(spec: StepSpec, device: torch.device) -> bool:
    try:
        return StepCache.open(default_cache_folder()).path(spec, device).exists()
    except CompilationError:
        return False


def _for_full_parts(compiled: InnerStep, plain: InnerStep, task_count: int) -> InnerStep:
    """Step as many tasks as the compiled step was made for by it, and fewer by the plain one."""

    def step(parameters: Tensor, *others: Tensor) -> Tensor:
        chosen = compiled if parameters.shape[0] == task_count else plain
        return chosen(parameters, *others)

    return step
