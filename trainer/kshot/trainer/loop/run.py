"""A meta-training from its first state to its last: checkpoints, curves and reports on the way."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from kshot.bundle import Bundle, Head
from kshot.learner import Initialization, derive_seed, initial_parameters, start_state
from kshot.trainer.errors import LostWorkerError, OtherTrainingError, TrainingError, writing
from kshot.trainer.loop.checkpoint import (
    TrainingIdentity,
    read_checkpoint,
    state_digest,
    write_checkpoint,
)
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterMoments, OuterState, meta_step_size
from kshot.trainer.loop.prefetch import prefetch
from kshot.trainer.loop.step_compilation import compiled_loop
from kshot.trainer.output.curve_file import CurveFile
from kshot.trainer.output.tensorboard import ScalarFile
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.record import recipe_differences, write_recipe
from kshot.trainer.tasks.seeds import INITIAL_PARAMETERS

CHECKPOINT_FILE = "checkpoint.safetensors"
REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingReport:
    """The progress of a training: iterations done, their rate, the mean inner loss, scalars."""

    meta_iteration: int
    meta_iterations: int
    meta_iterations_per_second: float
    loss: float
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training, ready to run; `measure` gives the scalars of its learning curves.

    With `mean_rows` its classes are not those of a task: the resulting head has that many rows,
    each the mean of the trained ones.
    """

    recipe: AnyRecipe
    identity: TrainingIdentity
    loop: OuterLoop
    first: OuterState
    measure: Callable[[Initialization], Mapping[str, float]]
    mean_rows: int | None = None

    def initialization(self, state: OuterState) -> Initialization:
        """Return a state as an initialization."""
        parameters = self._named(state.parameters)
        way, moments = len(parameters["head.bias"]), self._named(state.second_moment)
        return Initialization(self.loop.network, way, parameters, moments, state.step)

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        layout = self.loop.layout
        parts = {name: value[0] for name, value in layout.split(vector.unsqueeze(0)).items()}
        if self.mean_rows is not None:
            for name in ("head.weight", "head.bias"):
                mean_row = parts[name].mean(dim=0, keepdim=True)
                parts[name] = mean_row.expand(self.mean_rows, *mean_row.shape[1:]).contiguous()
        return parts


@contextmanager
def _within_memory() -> Iterator[None]:
    """Turn PyTorch's errors of exhausted memory into a `TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        # Only a GPU's allocator has an exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "CPUAllocator" not in str(error):
            raise
        raise TrainingError(
            "the training needs more memory than there is; choose a smaller outer.meta_batch_size, "
            "inner.batch_size or network"
        ) from error


@_within_memory()
def run_training(
    training: Training,
    out: Path,
    *,
    resume: bool,
    compiled: bool | None,
    report: Callable[[TrainingReport], None],
    say: Callable[[str], None],
) -> OuterState:
    """Train to the end; write checkpoints, recipe, TensorBoard scalars and curves to `out`.

    With `resume` the training goes on from its checkpoint; on a CPU the result then equals an
    uninterrupted training's bit for bit. A `KeyboardInterrupt`, or the end of another process,
    leaves a checkpoint of the last record, at most a second old. The inner steps are compiled
    before anything is written. Of several processes the first one writes. Raises `TrainingError`.
    """
    recipe = training.recipe
    state = resumed_state(training, out) if resume else training.first
    _check_workers(training, state, compiled)
    loop = compiled_loop(training.loop, recipe, state, compiled=compiled, say=say)
    training = replace(training, loop=loop)
    if not loop.workers.first:
        for advanced, _, _ in _meta_iterations(training, state):
            state = advanced
        return state

    def save(state: OuterState) -> None:
        write_checkpoint(out / CHECKPOINT_FILE, state, loop.layout, training.identity)

    if not resume:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        save(state)
    write_recipe(out, recipe)
    evaluation, total = recipe.evaluation, recipe.outer.meta_iterations
    recorded = state.meta_iteration or -1  # the first state's point comes after its checkpoint
    try:
        with (
            ScalarFile(out, recorded) as scalar_file,
            closing(_meta_iterations(training, state)) as meta_iterations,
        ):
            curve_file = CurveFile.open(out, recipe.name, recorded, say)
            if state.meta_iteration == 0:
                scalars = training.measure(training.initialization(state))
                scalar_file.write(0, scalars)
                curve_file.add(0, scalars)
            for advanced, loss, rate in meta_iterations:
                done = advanced.meta_iteration
                scalars = {}
                if done == total or done % evaluation.interval == 0:
                    scalars = training.measure(training.initialization(advanced))
                    curve_file.add(done, scalars)
                step_size = meta_step_size(recipe.outer, done - 1)
                progress = {"inner_loss": loss, "meta_step_size": step_size}
                scalar_file.write(done, {**progress, **scalars})
                state = advanced
                # After its scalars: a resumed training does not record them again.
                if done == total or done % evaluation.checkpoint_interval == 0:
                    save(state)
                report(TrainingReport(done, total, rate, loss, scalars))
    except (KeyboardInterrupt, LostWorkerError):
        save(state)
        raise
    return state


def first_state(loop: OuterLoop, device: torch.device) -> OuterState:
    """Draw the first parameters by the recipe's seed; moments are zero."""
    seed = derive_seed(loop.outer.seed, INITIAL_PARAMETERS)
    generator = torch.Generator().manual_seed(seed)
    way = loop.layout.shapes["head.bias"][0]
    parameters = loop.layout.join(initial_parameters(loop.network, way, generator)).to(device)
    zeros = torch.zeros_like(parameters)
    moments = OuterMoments(zeros, zeros) if loop.outer.optimizer == "adam" else None
    return OuterState(parameters, zeros, 0, 0, moments)


def started_state(loop: OuterLoop, bundle: Bundle, device: torch.device) -> OuterState:
    """Take the first parameters from a bundle, its head brought to the way of the tasks.

    Where the inner Adam carries its second moment, that goes on from the bundle's. Raises
    `TrainingError` when the bundle's weights do not fit its network.
    """
    try:
        initialization = Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise TrainingError(f"bundle {bundle.path} cannot be a start: {error}") from None
    start = start_state(
        initialization,
        loop.layout.shapes["head.bias"][0],
        head=Head.TRAINED,
        preconditioner=loop.rule.preconditioner,
    )
    parameters, moment = start.parameters[0], start.second_moment[0]
    zeros = torch.zeros_like(parameters)
    moments = OuterMoments(zeros, zeros) if loop.outer.optimizer == "adam" else None
    return OuterState(parameters, moment, start.step, 0, moments)


def resumed_state(training: Training, out: Path) -> OuterState:
    """Read a training's checkpoint; raises `TrainingError` that names the difference or damage."""
    path, layout = out / CHECKPOINT_FILE, training.loop.layout
    try:
        return read_checkpoint(path, layout, training.identity, training.first)
    except OtherTrainingError as error:
        said = str(error), recipe_differences(out, training.recipe)
        raise OtherTrainingError("; ".join(filter(None, said))) from None


def _check_workers(training: Training, state: OuterState, compiled: bool | None) -> None:
    workers, outer = training.loop.workers, training.loop.outer
    count = workers.count
    if count > 1 and outer.meta_batch != "stacked":
        raise TrainingError(
            f"outer.meta_batch: expected stacked for {count} processes, got {outer.meta_batch}; "
            "serial tasks wait for one another"
        )
    if count > outer.meta_batch_size:
        raise TrainingError(
            f"outer.meta_batch_size: expected at least one task for each of {count} processes, got "
            f"{outer.meta_batch_size}"
        )
    if count > 1 and not workers.agree(f"{training.identity} {state_digest(state)} {compiled}"):
        raise TrainingError(
            f"the {count} processes of this training differ: expected the same recipe, data, "
            "checkpoint and --compile for each"
        )


def _meta_iterations(
    training: Training, state: OuterState
) -> Generator[tuple[OuterState, float, float]]:
    """Advance to the end; yield state, mean loss and meta-iterations per second.

    It yields about once a second, at every checkpoint and evaluation, and at the end. Raises
    `TrainingError` when the loss, a parameter or its second moment is not finite.
    """
    evaluation, total = training.recipe.evaluation, training.recipe.outer.meta_iterations
    intervals = evaluation.checkpoint_interval, evaluation.interval
    losses: list[Tensor] = []
    reported = time.monotonic()
    with prefetch(training.loop.tasks.draw, state.meta_iteration, total) as batches:
        for tasks in batches:
            state, loss = training.loop.advance(state, tasks)
            losses.append(loss)
            done = state.meta_iteration
            due = done == total or any(done % interval == 0 for interval in intervals)
            if due or time.monotonic() - reported >= REPORT_EVERY_SECONDS:
                mean_loss = float(torch.stack(losses).mean())  # waits for a GPU
                seconds = time.monotonic() - reported
                learned = torch.cat([state.parameters, state.second_moment])
                if not math.isfinite(mean_loss) or not torch.isfinite(learned).all():
                    raise TrainingError(
                        f"training diverged: at meta-iteration {done} the inner loss is "
                        f"{mean_loss}; expected it, all parameters and their second moments to be "
                        "finite"
                    )
                yield state, mean_loss, len(losses) / max(seconds, 1e-9)
                losses, reported = [], time.monotonic()
