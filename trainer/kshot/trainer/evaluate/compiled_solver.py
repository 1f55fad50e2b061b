"""The inner steps of an evaluation, compiled where that works and saves more than it takes."""

from collections.abc import Callable, Sequence
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
from kshot.trainer.evaluate.solver import TaskSolver

__all__ = ["compiled_alike", "compiled_solver"]

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
    (found,) = compiled_alike(
        [solver],
        manifest,
        step_count=step_count,
        tasks_at_once=tasks_at_once,
        compiled=compiled,
        say=say,
    )
    return found


def compiled_alike(
    solvers: Sequence[TaskSolver],
    manifest: Manifest,
    *,
    step_count: int,
    tasks_at_once: int,
    compiled: bool | None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Sequence[TaskSolver]:
    """Return the solvers with all their inner steps compiled, or none: their times are compared.

    As `compiled_solver`; ``step_count`` is that of all solvers together, and has to be worth every
    step that was not compiled before.
    """
    if compiled is False or not step_count:
        return solvers
    (device,) = {next(iter(of.initialization.parameters.values())).device for of in solvers}
    specs = [
        StepSpec.of(manifest, of.way, of.batch_size, of.rule, of.scope).of_tasks(tasks_at_once)
        for of in solvers
    ]
    if compiled is None and (device.type != "cpu" or compiler_name(device) is None):
        return solvers
    missing = [spec for spec in dict.fromkeys(specs) if not _compiled_before(spec, device)]
    if compiled is None and step_count < WORTHWHILE_STEPS * len(missing):
        return solvers
    steps: dict[StepSpec, InnerStep] = {}
    try:
        for spec in dict.fromkeys(specs):
            if spec in missing:
                say("compiling the inner step")
            steps[spec] = compile_step(spec, device)
            steps[spec](*spec.example_arguments(device))
    except (CompilationError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if compiled:
            raise TrainingError(reason) from error
        say(f"{reason}; the evaluation is slower without")
        return solvers
    say(
        "the inner step is compiled"
        if len(steps) == 1
        else f"{len(steps)} inner steps are compiled"
    )
    return [
        replace(of, inner_step=_for_full_parts(steps[spec], of.inner_step, tasks_at_once))
        for of, spec in zip(solvers, specs, strict=True)
    ]


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
