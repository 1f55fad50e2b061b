"""Compilation of a training's inner steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from kshot.learner import (
    CompilationError,
    QuerySpec,
    StepSpec,
    compile_program,
    compile_step,
    compiler_name,
    graphed,
)
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.recipe_loop import query_spec, step_spec, tail_spec
from kshot.trainer.recipe.parsing import AnyRecipe

Spec = TypeVar("Spec", StepSpec, QuerySpec)


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
            replace(compiled_steps, workers=loop.workers.set_apart()).advance(state)
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
    main, tail = (_shared(spec, loop) for spec in (step_spec(recipe), tail_spec(recipe)))
    if (queries := query_spec(recipe)) is not None:
        gradient = compile_program(_shared(queries, loop), device)
        step = compile_step(main, device) if queries.displaced else loop.inner_step
        return replace(loop, inner_step=step, query_gradient=gradient)
    step = compile_step(main, device)
    return replace(
        loop, inner_step=step, tail_step=step if tail == main else compile_step(tail, device)
    )


def _shared(spec: Spec, loop: OuterLoop) -> Spec:
    """Describe the step of this process's share of a stacked meta-batch."""
    if loop.outer.meta_batch == "serial":
        return spec
    own = loop.workers.own(loop.outer.meta_batch_size)
    return spec.of_tasks(own.stop - own.start)
