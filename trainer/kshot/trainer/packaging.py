"""From a finished training to its bundle: manifest, table of accuracies, templates, card."""

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

from kshot.bundle import (
    BatchNormMode,
    EvaluationRow,
    InnerLoop,
    Manifest,
    Provenance,
    Training,
    Weights,
    load_bundle,
    write_bundle,
)
from kshot.learner import Initialization
from kshot.trainer.card import model_card
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.datasets import split_digest
from kshot.trainer.episodes import check_episodes
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluation import (
    TASKS_AT_ONCE,
    EvaluationSettings,
    build_solver,
    evaluate,
)
from kshot.trainer.onnx_templates import build_template
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.recipe import Recipe, recipe_digest

BUNDLE_VERSION = 1
TABLE_TASK_COUNT = 1000
TABLE_SHOTS = (1, 5)
TABLE_QUERY_COUNT = 1  # per class
TABLE_STEP_COUNT = 50  # as the paper evaluates
TABLE_SEED = 0


def draft_manifest(recipe: Recipe, dataset: ImageDataset) -> Manifest:
    """Write down what is known before training: everything but accuracies and files."""
    serving, inner, outer = recipe.serving, recipe.inner, recipe.outer
    return Manifest(
        name=serving.name,
        version=BUNDLE_VERSION,
        network=recipe.network,
        input=recipe.input,
        inner_loop=InnerLoop(
            optimizer=inner.optimizer,
            learning_rate=inner.learning_rate,
            step_count=serving.step_count,
            sampling=inner.sampling,
            preconditioner=serving.preconditioner,
            preconditioners=serving.preconditioners,
            second_moment_decay=inner.second_moment_decay,
            epsilon=inner.epsilon,
            batch_size_by_way=serving.batch_size_by_way,
            batch_sizes=serving.batch_sizes,
            way_buckets=serving.way_buckets,
        ),
        batch_norm=recipe.batch_norm,
        training=Training(recipe.task.way, recipe.task.shot),
        head=serving.head,
        scope=serving.scope,
        limits=serving.limits,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_digest=recipe_digest(recipe),
            algorithm=outer.algorithm,
            seed=outer.seed,
            meta_iterations=outer.meta_iterations,
            data_digest=dataset.digest,
            split_digest=split_digest(recipe.data.dataset, recipe.data.split),
            library_versions=_library_versions(),
        ),
    )


def bundle_folder(out: Path, manifest: Manifest) -> Path:
    """Return the folder that a training in ``out`` ends with, ``out/NAME/VERSION``."""
    return out / manifest.name / str(manifest.version)


def find_bundle(out: Path, manifest: Manifest) -> Path | None:
    """Return the folder of the bundle that this very training has written, or None.

    Raises ``TrainingError`` when another training's is in its place, ``BundleError`` when it is
    damaged.
    """
    folder = bundle_folder(out, manifest)
    if not folder.exists():
        return None
    found, wanted = (
        replace(provenance, library_versions={})
        for provenance in (load_bundle(folder).manifest.provenance, manifest.provenance)
    )
    if found != wanted:
        raise TrainingError(f"{folder} is another training's bundle: name another folder")
    return folder


def check_table(manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise ``DataError`` unless the data set has classes and images enough for the table."""
    for shot in TABLE_SHOTS:
        check_episodes(dataset, manifest.training.way, shot, TABLE_QUERY_COUNT)


def pack_bundle(
    out: Path,
    manifest: Manifest,
    initialization: Initialization,
    dataset: ImageDataset,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Measure the table on test tasks and write ``out/NAME/VERSION``; return that folder.

    ``report`` hears how many tasks of how many are measured. Raises ``BundleError`` when that
    folder exists already.
    """
    manifest = replace(
        manifest, evaluation=_measure_table(manifest, initialization, dataset, report)
    )
    templates = {mode: build_template(initialization.network, mode) for mode in BatchNormMode}
    weights = Weights(
        {name: value.cpu().numpy() for name, value in initialization.parameters.items()},
        {name: value.cpu().numpy() for name, value in initialization.second_moment.items()},
        initialization.step,
    )
    return write_bundle(out, manifest, weights, templates, model_card(manifest)).path


def _measure_table(
    manifest: Manifest,
    initialization: Initialization,
    dataset: ImageDataset,
    report: Callable[[int, int], None],
) -> tuple[EvaluationRow, ...]:
    """Evaluate tasks of the trained way, one query per class, in every allowed mode."""
    device = next(iter(initialization.parameters.values())).device
    pixels = DevicePixels.load(dataset, manifest.input, device)
    modes = manifest.batch_norm.allowed
    step_counts = sorted({manifest.inner_loop.step_count, TABLE_STEP_COUNT})
    total = TABLE_TASK_COUNT * len(TABLE_SHOTS) * len(step_counts)
    rows: list[EvaluationRow] = []
    for index, (shot, step_count) in enumerate(product(TABLE_SHOTS, step_counts)):
        settings = EvaluationSettings(
            way=manifest.training.way,
            shot=shot,
            query_count=TABLE_QUERY_COUNT,
            task_count=TABLE_TASK_COUNT,
            batch_norm_mode=modes[0],
            step_count=step_count,
            seed=TABLE_SEED,
        )
        results = evaluate(
            build_solver(initialization, manifest, pixels, settings),
            dataset,
            settings,
            modes,
            tasks_at_once=TASKS_AT_ONCE[device.type],
            report=_counting_on(report, index * TABLE_TASK_COUNT, total),
        )
        rows += [
            EvaluationRow(
                way=settings.way,
                shot=shot,
                query_count=settings.query_count,
                task_count=result.task_count,
                step_count=step_count,
                batch_norm_mode=mode,
                preconditioner=manifest.inner_loop.preconditioner,
                accuracy=result.accuracy,
                ci95=result.ci95,
                ci_method=result.ci_method,
            )
            for mode, result in results.items()
        ]
    return tuple(rows)


def _counting_on(
    report: Callable[[int, int], None], before: int, total: int
) -> Callable[[int, int], None]:
    """Report a part's progress as the whole's."""
    return lambda done, _total: report(before + done, total)


def _library_versions() -> dict[str, str]:
    """Name what the result depends on, in order; what is not installed as a package is left out."""
    versions = {}
    for package in ("kshot", "numpy", "onnx", "onnxscript", "torch"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    versions["python"] = platform.python_version()
    return dict(sorted(versions.items()))
