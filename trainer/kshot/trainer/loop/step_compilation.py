"""Compilation of a training's inner steps."""

from collections.abc import Callable
from dataclasses import replace

import torch

from kshot.learner import CompilationError, compile_program, compile_step, compiler_name, graphed
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.recipe_loop import query_spec, step_spec
from kshot.trainer.recipe.parsing import AnyRecipe


def compiled_loop(
    loop: OuterLoop,
    recipe: AnyRecipe,
    state: OuterState,
    *,
    compiled: bool | None,
    say: Callable[[str], None],
) -> OuterLoop:
    """Compile a loop's inner steps and try them; with None for `compiled`, if that works.

    MAML differentiates through its steps, which compiled ones do not allow. On a GPU steps launch
    as graphs, compiled or not. Raises `TrainingError` when `compiled` is true and compiling fails.
    """
    device = state.parameters.device
    if loop.algorithm.second_order:
        if compiled:
            raise TrainingError("algorithm maml cannot be compiled; use --no-compile")
        return loop
    loop = replace(
        loop,
        inner_step=graphed(loop.inner_step, device),
        tail_step=graphed(loop.tail_step, device),
    )
    if compiled is False:
        return loop
    faster, reason = loop, ""
    if compiled or compiler_name(device) is not None:
        say("compiling the inner step")
        try:
            compiled_steps = _compiled(loop, recipe, device)
            # Changes nothing, for the tasks follow from the state, and waits for no other process.
            apart = replace(loop.workers, apart=True)
            replace(compiled_steps, workers=apart).advance(state)
            faster = compiled_steps
        except (CompilationError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if compiled:
                raise TrainingError(reason) from error
    if not loop.workers.agree(str(faster is loop)):
        faster, reason = loop, reason or "some process cannot compile the inner step"
    if reason:
        say(f"{reason}; the training is slower without")
    return faster


def _compiled(loop: OuterLoop, recipe: AnyRecipe, device: torch.device) -> OuterLoop:
    """Compile the steps of this process's share of the tasks."""
    task, spec, queries = recipe.task, step_spec(recipe), query_spec(recipe)
    own = loop.workers.own(spec.task_count)
    share = own.stop - own.start
    spec = spec.of_tasks(share)
    if queries is not None:
        gradient = compile_program(queries.of_tasks(share), device)
        step = compile_step(spec, device) if queries.displaced else loop.inner_step
        return replace(loop, inner_step=step, query_gradient=gradient)
    step = tail_step = compile_step(spec, device)
    if task.tail_shot and task.way * task.tail_shot != spec.batch_size:
        tail_step = compile_step(replace(spec, batch_size=task.way * task.tail_shot), device)
    return replace(loop, inner_step=step, tail_step=tail_step)
