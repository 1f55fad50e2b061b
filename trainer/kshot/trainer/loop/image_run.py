"""A meta-training over a data set of images, from its recipe to its bundle."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kshot.bundle import Bundle, Manifest
from kshot.learner import NETWORKS, Network
from kshot.local import pip_install
from kshot.trainer.bundling.packaging import (
    bundle_folder,
    draft_manifest,
    finished_bundle,
    pack_bundle,
)
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluate.accuracy_table import check_plan, measure_plan, plan_table
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.learning_curve import Curves
from kshot.trainer.loop.checkpoint import TrainingIdentity
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.recipe_loop import recipe_loop
from kshot.trainer.loop.run import (
    CHECKPOINT_FILE,
    Training,
    TrainingReport,
    first_state,
    resumed_state,
    run_training,
    started_state,
)
from kshot.trainer.loop.workers import ALONE, Workers
from kshot.trainer.recipe.recipe import Recipe, recipe_digest
from kshot.trainer.recipe.start import start_bundle
from kshot.trainer.tasks.episodes import check_episodes
from kshot.trainer.tasks.meta_batch import ImageTasks


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
    workers: Workers = ALONE,
) -> Path:
    """Train, write the files of `run_training` and a bundle to `out`; return the bundle's folder.

    A resumed training whose bundle exists changes nothing and reports nothing. `report_table`
    receives how many tasks of the bundle's table are measured. `compiled` compiles the inner step;
    with None it is compiled if that works, and `say` receives how it went. Raises `TrainingError`
    when the recipe does not fit its network, the inner step cannot be compiled though `compiled` is
    true, the training diverges, a file cannot be written, or a checkpoint is missing, damaged or
    belongs to another training; `DataError` when a data set does not fit; `BundleError` when the
    bundle is damaged. Training images are `recipe.oversampling` times as high and wide as others.
    """
    manifest = draft_manifest(recipe, dataset_train)
    training = image_training(recipe, manifest, dataset_train, dataset_test, device, workers)
    plan = plan_table(recipe.evaluation.table, manifest)
    check_plan(plan, dataset_test)
    if workers.first and recipe.network.name not in NETWORKS:
        _check_network(training.loop.network, recipe.network.name, manifest)
    folder = bundle_folder(out, manifest)
    if resume:
        resumed_state(training, out)
        finished = finished_bundle(out, manifest)
        if finished is not None:
            return finished
    elif workers.first and ((out / CHECKPOINT_FILE).exists() or folder.exists()):
        raise TrainingError(f"{out} holds a training already; resume it or name another folder")
    state = run_training(training, out, resume=resume, compiled=compiled, report=report, say=say)
    if not workers.first:
        return folder
    initialization = training.initialization(state)
    start = start_bundle(recipe)
    pixels = _pixels(start, recipe, dataset_test, device)
    evaluator = Evaluator(initialization, manifest, dataset_test, pixels=pixels)
    measured = replace(manifest, evaluation=measure_plan(plan, evaluator, report_table))
    return pack_bundle(out, measured, initialization, recipe, dataset_train, start)


def _check_network(network: Network, name: str, manifest: Manifest) -> None:
    """Check a network of another package before hours are spent on it."""
    try:
        # Networks of kshot's own are trained without ONNX Runtime.
        from kshot.trainer.bundling.network_check import check_network
    except ImportError as error:
        raise TrainingError(
            f"network {name!r}: checking it needs ONNX Runtime; {pip_install('cpu')}"
        ) from error
    check_network(network, name, manifest.batch_norm.allowed)


def image_training(
    recipe: Recipe,
    manifest: Manifest,
    dataset_train: ImageDataset,
    dataset_test: ImageDataset,
    device: torch.device,
    workers: Workers = ALONE,
) -> Training:
    """Build a training; raises the errors of `train` before hours are spent."""
    _check_datasets(recipe, dataset_train, dataset_test)
    datasets = {"train": dataset_train, "test": dataset_test}
    start = start_bundle(recipe)
    pixels = {
        "train": _pixels(start, recipe, dataset_train, device, recipe.oversampling),
        "test": _pixels(start, recipe, dataset_test, device),
    }
    loop = recipe_loop(recipe, ImageTasks(recipe, dataset_train, pixels["train"]), workers)
    curves = Curves(recipe, manifest, datasets, pixels)
    return Training(
        recipe,
        TrainingIdentity(recipe_digest(recipe), dataset_train.digest),
        loop,
        first_state(loop, device) if start is None else started_state(loop, start, device),
        curves.measure,
        manifest.training.way if recipe.task.labels == "fixed" else None,
    )


def image_loop(recipe: Recipe, dataset: ImageDataset, device: torch.device) -> OuterLoop:
    """Build the outer loop of a recipe, its steps uncompiled, without the rest of a training.

    Raises `TrainingError` when the recipe does not fit its network, `DataError` when the images do
    not fit its input.
    """
    start = start_bundle(recipe)
    pixels = _pixels(start, recipe, dataset, device, recipe.oversampling)
    return recipe_loop(recipe, ImageTasks(recipe, dataset, pixels))


def _pixels(
    start: Bundle | None,
    recipe: Recipe,
    dataset: ImageDataset,
    device: torch.device,
    oversampling: int = 1,
) -> DevicePixels:
    """Load images as the network takes them: encoded where the training keeps an encoder."""
    if start is not None and recipe.encoded_shape is not None:
        return encoded_pixels(dataset, start, device)
    return DevicePixels.load(dataset, recipe.input, device, oversampling)


def _check_datasets(
    recipe: Recipe, dataset_train: ImageDataset, dataset_test: ImageDataset
) -> None:
    task, evaluation = recipe.task, recipe.evaluation
    check_episodes(dataset_train, task.way, task.shot, 0)
    if task.labels == "fixed" and task.way != dataset_train.class_count:
        raise DataError(
            f"task.way: expected all {dataset_train.class_count} classes of {dataset_train.name} "
            f"with fixed labels, got {task.way}"
        )
    for dataset in (dataset_train, dataset_test):
        check_episodes(dataset, evaluation.way, evaluation.shot, evaluation.query_count)
