"""A meta-training from its recipe to its bundle."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kshot.bundle import Preconditioner
from kshot.learner import (
    Initialization,
    Network,
    ParameterLayout,
    StepRule,
    build_inner_step,
    build_network,
    compile_step,
    derive_seed,
    initial_parameters,
    layout_of,
)
from kshot.trainer.checkpoint import TrainingIdentity, read_checkpoint, write_checkpoint
from kshot.trainer.curves import Curves
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import check_episodes
from kshot.trainer.errors import TrainingError
from kshot.trainer.outer_loop import OuterLoop, OuterState
from kshot.trainer.packaging import draft_manifest, pack_bundle
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.recipe import Recipe, recipe_digest

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
    compiled: bool,
    report: Callable[[TrainingReport], None],
) -> Path:
    """Train, write checkpoints and TensorBoard scalars to ``out``, and end with a bundle there.

    With ``resume`` the training goes on from its checkpoint; on a CPU the result then equals an
    uninterrupted training's bit for bit. Returns the bundle's folder. Raises ``TrainingError`` when
    the recipe does not fit its network, the training diverges, or a checkpoint is missing, damaged
    or another training's; ``DataError`` when a data set does not fit.
    """
    checkpoint = out / CHECKPOINT_FILE
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{out} holds a training already: resume it, or name another folder")
    check_episodes(dataset_train, recipe.task.way, recipe.task.shot, 0)
    check_episodes(
        dataset_test,
        recipe.evaluation.way,
        recipe.evaluation.shot,
        recipe.evaluation.query_count,
    )
    network = _network(recipe)
    layout = layout_of(network, recipe.task.way)
    identity = TrainingIdentity(recipe_digest(recipe), dataset_train.digest)
    if resume:
        state = read_checkpoint(checkpoint, layout, identity, device)
    else:
        state = first_state(network, layout, recipe, device)
    out.mkdir(parents=True, exist_ok=True)
    loop = _outer_loop(recipe, dataset_train, network, layout, device, compiled=compiled)
    manifest = draft_manifest(recipe, dataset_train)
    curves = Curves(recipe, manifest, network, {"train": dataset_train, "test": dataset_test})
    with SummaryWriter(str(out), purge_step=state.meta_iteration or None) as writer:
        for state, loss, rate in _meta_iterations(loop, state):
            done = state.meta_iteration
            last = done == recipe.outer.meta_iterations
            if last or done % recipe.evaluation.checkpoint_interval == 0:
                write_checkpoint(checkpoint, state, layout, identity)
            scalars: dict[str, float] = {}
            if last or done % recipe.evaluation.interval == 0:
                scalars = curves.measure(initialization_of(network, recipe, layout, state))
            _record(writer, done, {"inner_loss": loss, **scalars})
            report(TrainingReport(done, recipe.outer.meta_iterations, rate, loss, scalars))
    initialization = initialization_of(network, recipe, layout, state)
    return pack_bundle(out, manifest, initialization, dataset_test)


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


def _network(recipe: Recipe) -> Network:
    try:
        return build_network(recipe.network, recipe.input.shape, recipe.batch_norm.epsilon)
    except ValueError as error:
        raise TrainingError(f"recipe {recipe.name}: {error}") from None


def _outer_loop(
    recipe: Recipe,
    dataset: ImageDataset,
    network: Network,
    layout: ParameterLayout,
    device: torch.device,
    *,
    compiled: bool,
) -> OuterLoop:
    inner = recipe.inner
    rule = StepRule(
        Preconditioner.CARRIED, inner.learning_rate, inner.second_moment_decay, inner.epsilon
    )
    step = build_inner_step(network, layout, rule)
    pixels = DevicePixels.load(dataset, recipe.input, device)
    return OuterLoop(
        recipe, dataset, pixels, layout, rule, compile_step(step) if compiled else step
    )


def _meta_iterations(
    loop: OuterLoop, state: OuterState
) -> Iterator[tuple[OuterState, float, float]]:
    """Advance to the end; yield state, mean loss and meta-iterations per second where due.

    Due is about once a second, and at every checkpoint and evaluation. Raises ``TrainingError``
    when the loss is not finite.
    """
    evaluation, total = loop.recipe.evaluation, loop.recipe.outer.meta_iterations
    losses: list[Tensor] = []
    reported = time.monotonic()
    while state.meta_iteration < total:
        state, loss = loop.advance(state)
        losses.append(loss)
        done, now = state.meta_iteration, time.monotonic()
        due = done == total or any(
            done % interval == 0
            for interval in (evaluation.checkpoint_interval, evaluation.interval)
        )
        if due or now - reported >= REPORT_EVERY_SECONDS:
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                raise TrainingError(
                    f"training diverged: the inner loss is {mean_loss} at meta-iteration {done}"
                )
            yield state, mean_loss, len(losses) / max(now - reported, 1e-9)
            losses, reported = [], time.monotonic()


def _record(writer: SummaryWriter, meta_iteration: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, meta_iteration)
