"""A meta-training from its recipe to its bundle."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from kshot.bundle import Manifest, Preconditioner, Scope
from kshot.learner import (
    CompilationError,
    Initialization,
    Network,
    ParameterLayout,
    StepRule,
    StepSpec,
    build_network,
    compile_step,
    compiler_name,
    derive_seed,
    initial_parameters,
    layout_of,
)
from kshot.trainer.checkpoint import TrainingIdentity, read_checkpoint, write_checkpoint
from kshot.trainer.curves import Curves
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import check_episodes
from kshot.trainer.errors import OtherTrainingError, TrainingError
from kshot.trainer.meta_batch import MetaBatch
from kshot.trainer.outer_loop import OuterLoop, OuterState
from kshot.trainer.packaging import bundle_folder, draft_manifest, find_bundle, pack_bundle
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.prefetch import prefetch
from kshot.trainer.recipe import Recipe, recipe_digest
from kshot.trainer.recipe_record import recipe_differences, write_recipe
from kshot.trainer.scalars import ScalarFile
from kshot.trainer.table import check_table, measure_table

CHECKPOINT_FILE = "checkpoint.safetensors"
REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingReport:
    """How far a training is: iterations done, their rate, the mean inner loss, curve scalars."""

    meta_iteration: int
    meta_iterations: int
    meta_iterations_per_second: float
    loss: float
    scalars: Mapping[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    dataset_train: ImageDataset,
    dataset_test: ImageDataset,
    out: Path,
    *,
    resume: bool,
    device: torch.device,
    compiled: bool | None,
    report: Callable[[TrainingReport], None],
    report_table: Callable[[int, int], None] = lambda _done, _total: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Path:
    """Train, write checkpoints, recipe and TensorBoard scalars to ``out``, and end with a bundle.

    With ``resume`` the training goes on from its checkpoint; on a CPU the result then equals an
    uninterrupted training's bit for bit. One whose bundle is there already is left as it is, and
    nothing is reported. A ``KeyboardInterrupt`` leaves a checkpoint of what was last recorded, at
    most a second old. ``report_table`` hears how many tasks of the bundle's table are measured.
    ``compiled`` compiles the inner step; with None it is compiled where that works. It is tried
    before anything is written, and ``say`` hears of it. Returns the bundle's folder. Raises
    ``TrainingError`` when the recipe does not fit its network, the inner step was to be compiled
    and cannot be, the training diverges, the disk does not take a file, or a checkpoint is missing,
    damaged or another training's; ``DataError`` when a data set does not fit; ``BundleError`` when
    a bundle there is damaged.
    """
    manifest = draft_manifest(recipe, dataset_train)
    _check_datasets(recipe, manifest, dataset_train, dataset_test)
    network = _network(recipe)
    layout = layout_of(network, recipe.task.way)
    identity = TrainingIdentity(recipe_digest(recipe), dataset_train.digest)
    checkpoint = out / CHECKPOINT_FILE
    if resume:
        try:
            state = read_checkpoint(checkpoint, layout, identity, device)
        except OtherTrainingError as error:
            differences = recipe_differences(out, recipe)
            raise OtherTrainingError(
                f"{error}; {differences}" if differences else f"{error}"
            ) from None
        finished = find_bundle(out, manifest)
        if finished is not None:
            return finished
    else:
        if checkpoint.exists() or bundle_folder(out, manifest).exists():
            raise TrainingError(
                f"{out} holds a training already: resume it, or name another folder"
            )
        state = first_state(network, layout, recipe, device)
    loop = _outer_loop(recipe, dataset_train, layout, device)
    if compiled or (compiled is None and compiler_name(device) is not None):
        loop = _compiled(loop, state, device, say, required=compiled is True)
    if not resume:
        out.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, state, layout, identity)
    write_recipe(out, recipe)
    curves = Curves(recipe, manifest, network, {"train": dataset_train, "test": dataset_test})
    try:
        with (
            ScalarFile(out, state.meta_iteration) as scalar_file,
            prefetch(loop.draw, state.meta_iteration, recipe.outer.meta_iterations) as batches,
        ):
            for advanced, loss, rate in _meta_iterations(loop, state, batches):
                done = advanced.meta_iteration
                last = done == recipe.outer.meta_iterations
                scalars: dict[str, float] = {}
                if last or done % recipe.evaluation.interval == 0:
                    scalars = curves.measure(initialization_of(network, recipe, layout, advanced))
                scalar_file.write(done, {"inner_loss": loss, **scalars})
                state = advanced
                # After its scalars: what a checkpoint counts as done is never recorded again.
                if last or done % recipe.evaluation.checkpoint_interval == 0:
                    write_checkpoint(checkpoint, state, layout, identity)
                report(TrainingReport(done, recipe.outer.meta_iterations, rate, loss, scalars))
    except KeyboardInterrupt:
        write_checkpoint(checkpoint, state, layout, identity)
        raise
    initialization = initialization_of(network, recipe, layout, state)
    table = recipe.evaluation.table
    rows = measure_table(table, manifest, initialization, dataset_test, report_table)
    return pack_bundle(out, replace(manifest, evaluation=rows), initialization)


def first_state(
    network: Network, layout: ParameterLayout, recipe: Recipe, device: torch.device
) -> OuterState:
    """Draw the parameters that training starts from, by the recipe's seed; v and t are zero."""
    generator = torch.Generator().manual_seed(derive_seed(recipe.outer.seed))
    parameters = layout.join(initial_parameters(network, recipe.task.way, generator)).to(device)
    return OuterState(parameters, torch.zeros_like(parameters), 0, 0)


def initialization_of(
    network: Network, recipe: Recipe, layout: ParameterLayout, state: OuterState
) -> Initialization:
    """Name what a training has learned so far."""
    parameters, second_moment = (
        {name: value[0] for name, value in layout.split(vector.unsqueeze(0)).items()}
        for vector in (state.parameters, state.second_moment)
    )
    return Initialization(network, recipe.task.way, parameters, second_moment, state.step)


def _check_datasets(
    recipe: Recipe, manifest: Manifest, dataset_train: ImageDataset, dataset_test: ImageDataset
) -> None:
    """Raise ``DataError`` now rather than hours later."""
    check_episodes(dataset_train, recipe.task.way, recipe.task.shot, 0)
    for dataset in (dataset_train, dataset_test):
        evaluation = recipe.evaluation
        check_episodes(dataset, evaluation.way, evaluation.shot, evaluation.query_count)
    check_table(recipe.evaluation.table, manifest, dataset_test)


def _network(recipe: Recipe) -> Network:
    try:
        return build_network(recipe.network, recipe.input.shape, recipe.batch_norm.epsilon)
    except ValueError as error:
        raise TrainingError(f"recipe {recipe.name}: {error}") from None


def _outer_loop(
    recipe: Recipe,
    dataset: ImageDataset,
    layout: ParameterLayout,
    device: torch.device,
) -> OuterLoop:
    inner = recipe.inner
    rule = StepRule(
        Preconditioner.CARRIED, inner.learning_rate, inner.second_moment_decay, inner.epsilon
    )
    step = step_spec(recipe).build()
    pixels = DevicePixels.load(dataset, recipe.input, device)
    return OuterLoop(recipe, dataset, pixels, layout, rule, step)


def _compiled(
    loop: OuterLoop,
    state: OuterState,
    device: torch.device,
    say: Callable[[str], None],
    *,
    required: bool,
) -> OuterLoop:
    """Compile a loop's inner step and try it; return the loop as it was where that fails.

    Raises ``TrainingError`` instead when compilation is required.
    """
    say("compiling the inner step")
    try:
        compiled = replace(loop, inner_step=compile_step(step_spec(loop.recipe), device))
        compiled.advance(state)  # changes nothing: what is drawn follows from the state
    except (CompilationError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if required:
            raise TrainingError(reason) from error
        say(f"{reason}; the training is slower without")
        return loop
    return compiled


def step_spec(recipe: Recipe) -> StepSpec:
    """Describe the inner step of a recipe: of one task, or of a meta-batch that is stacked."""
    stacked = recipe.outer.second_moment == "stacked"
    return StepSpec(
        network=recipe.network,
        input_shape=recipe.input.shape,
        batch_norm_epsilon=recipe.batch_norm.epsilon,
        way=recipe.task.way,
        batch_size=recipe.inner.batch_size,
        updates_second_moment=True,
        second_moment_decay=recipe.inner.second_moment_decay,
        epsilon=recipe.inner.epsilon,
        scope=Scope.ALL,
        task_count=recipe.outer.meta_batch_size if stacked else 1,
    )


def _meta_iterations(
    loop: OuterLoop, state: OuterState, batches: Iterator[MetaBatch]
) -> Iterator[tuple[OuterState, float, float]]:
    """Advance through all batches; yield state, mean loss and meta-iterations per second where due.

    Due is about once a second, at every checkpoint and evaluation, and at the end. Raises
    ``TrainingError`` when the loss, a parameter or its second moment is not finite.
    """
    evaluation, total = loop.recipe.evaluation, loop.recipe.outer.meta_iterations
    losses: list[Tensor] = []
    reported = time.monotonic()
    for tasks in batches:
        state, loss = loop.advance(state, tasks)
        losses.append(loss)
        done = state.meta_iteration
        due = done == total or any(
            done % interval == 0
            for interval in (evaluation.checkpoint_interval, evaluation.interval)
        )
        if due or time.monotonic() - reported >= REPORT_EVERY_SECONDS:
            mean_loss = float(torch.stack(losses).mean())  # waits for a GPU to come so far
            seconds = time.monotonic() - reported
            learned = torch.cat([state.parameters, state.second_moment])
            if not math.isfinite(mean_loss) or not torch.isfinite(learned).all():
                raise TrainingError(
                    f"training diverged: at meta-iteration {done} the inner loss is {mean_loss}, "
                    "wanted it, all parameters and their second moments finite"
                )
            yield state, mean_loss, len(losses) / max(seconds, 1e-9)
            losses, reported = [], time.monotonic()
