"""Compiled inner steps for evaluations, made where that works and saves more time than it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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

# On one core compiling takes about thirty seconds, and saves three milliseconds of each step.
WORTHWHILE_STEPS = 10_000


@dataclass(frozen=True)
class CompiledSteps:
    """Compiles the inner steps of solvers on one device, and keeps what it compiled.

    With `compiled` None, steps are compiled on a CPU with a compiler, and only where that pays.
    `say` hears what is done.
    """

    manifest: Manifest
    device: torch.device
    compiled: bool | None
    say: Callable[[str], None]
    _steps: dict[StepSpec, InnerStep] = field(default_factory=dict)

    def give(
        self, solvers: Sequence[TaskSolver], step_count: int, tasks_at_once: int
    ) -> Sequence[TaskSolver]:
        """Return the solvers with compiled inner steps: all of them, or none.

        Solvers are given compiled steps together because their times are compared. `step_count`
        counts the steps of all solvers and tasks; compiling has to pay for each step that was not
        compiled before. Raises `TrainingError` when `compiled` is true and a step does not compile.
        """
        if self.compiled is False or not step_count:
            return solvers
        specs = [
            StepSpec.of(self.manifest, of.way, of.batch_size, of.rule, of.scope).of_tasks(
                tasks_at_once
            )
            for of in solvers
        ]
        wanted = [spec for spec in dict.fromkeys(specs) if spec not in self._steps]
        new = [spec for spec in wanted if not _compiled_before(spec, self.device)]
        if self.compiled is None and not self._pays(step_count, len(new)):
            return solvers
        try:
            for spec in wanted:
                if spec in new:
                    self.say("compiling the inner step")
                step = compile_step(spec, self.device)
                step(*spec.example_arguments(self.device))
                self._steps[spec] = step
        except (CompilationError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if self.compiled:
                raise TrainingError(reason) from error
            self.say(f"{reason}; the evaluation is slower without")
            return solvers
        count = len(set(specs))
        self.say(
            "the inner step is compiled" if count == 1 else f"{count} inner steps are compiled"
        )
        return [
            replace(of, inner_step=_for_full_parts(self._steps[spec], of.inner_step, tasks_at_once))
            for of, spec in zip(solvers, specs, strict=True)
        ]

    def _pays(self, step_count: int, new_count: int) -> bool:
        compiles = self.device.type == "cpu" and compiler_name(self.device) is not None
        return compiles and step_count >= WORTHWHILE_STEPS * new_count


def _compiled_before(spec: StepSpec, device: torch.device) -> bool:
    try:
        return StepCache.open(default_cache_folder()).path(spec, device).exists()
    except CompilationError:
        return False


def _for_full_parts(compiled: InnerStep, plain: InnerStep, task_count: int) -> InnerStep:
    """Use the compiled step for the number of tasks it was compiled for, else the plain step."""

    def step(parameters: Tensor, *others: Tensor) -> Tensor:
        chosen = compiled if parameters.shape[0] == task_count else plain
        return chosen(parameters, *others)

    return step
