"""The model card of a bundle, in Markdown."""

import shlex

from kshot.bundle import EvaluationRow, Manifest
from kshot.trainer.datasets.dataset import ROTATIONS_DEGREES, ImageDataset
from kshot.trainer.recipe.recipe import Inner, Outer, Recipe, Task
from kshot.trainer.recipe.settings import recipe_words

__all__ = [
    "UNCALIBRATED",
    "accuracy_section",
    "calibration_limit",
    "counted",
    "evaluate_command",
    "model_card",
]

UNCALIBRATED = "- Probabilities are not calibrated."
ALGORITHMS = {
    "reptile": "Reptile",
    "fomaml": "FOMAML",
    "maml": "MAML",
    "joint": "joint training",
    "weighted": "weighted inner gradients",
}
OPTIMIZERS = {
    "carried": "Adam without momentum, its second moment carried from task to task",
    "fresh": "Adam without momentum, its second moment zero at the start of each task",
    "sgd": "plain gradient descent",
}


def model_card(manifest: Manifest, recipe: Recipe, dataset: ImageDataset) -> str:
    """Describe a bundle: what it learned from, how well it adapts, what repeats it, its limits.

    ``dataset`` is what was trained on.
    """
    parts = [
        _origin(manifest, recipe, dataset),
        accuracy_section(manifest),
        _commands(manifest, recipe),
        _limits(manifest),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _origin(manifest: Manifest, recipe: Recipe, dataset: ImageDataset) -> list[str]:
    provenance = manifest.provenance
    channels, height, width = manifest.input.shape
    arguments = ", ".join(
        f"{key} {value}" for key, value in sorted(manifest.network.arguments.items())
    )
    return [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"An initialization for few-shot classification of {width}x{height} images with "
        f"{channels} channel{'s' if channels > 1 else ''}, made by kshot.",
        "",
        f"- Network: `{manifest.network.name}` ({arguments}).",
        f"- Training: {ALGORITHMS[recipe.outer.algorithm]}, recipe `{provenance.recipe}`, "
        f"{provenance.meta_iterations:,} meta-iterations of {_tasks(recipe)}, seed "
        f"{provenance.seed}.",
        f"- Inner loop: {_inner_loop(recipe.inner, recipe.task)}.",
        f"- Outer loop: {_outer_loop(recipe.outer)}.",
        f"- Data: {_classes(recipe, dataset)} (digest of the split `{provenance.split_digest}`, of "
        f"the images `{provenance.data_digest}`).",
        "- Made with: "
        + ", ".join(f"{name} {version}" for name, version in provenance.library_versions.items())
        + ".",
    ]


def _tasks(recipe: Recipe) -> str:
    task, count = recipe.task, recipe.outer.meta_batch_size
    if task.labels == "fixed":
        return f"{counted(count, 'draw')} of images from all {task.way:,} classes"
    order = f" ({recipe.outer.meta_batch})" if count > 1 else ""
    examples = counted(task.shot, "example")
    return f"{counted(count, 'task')} each{order}, {task.way}-way with {examples} per class"


def _inner_loop(inner: Inner, task: Task) -> str:
    step_count = inner.step_count - 1 if task.tail_as_served else inner.step_count
    said = (
        f"{counted(step_count, 'step')} of {OPTIMIZERS[inner.preconditioner]}, learning "
        f"rate {inner.learning_rate:g}, on batches of {inner.batch_size} ({inner.sampling})"
    )
    if task.tail_as_served:
        said = (said if step_count else "no step") + _queries(task)
    elif task.tail_shot:
        said += f", the last on {counted(task.tail_shot, 'example')} per class kept for it"
    if inner.weight_decay_rate != 1 and step_count:
        said += f", all parameters times {inner.weight_decay_rate:g} before each"
    return said


def _queries(task: Task) -> str:
    """Say how the tail is answered where that is done as in service."""
    head = "class means" if task.head == "prototype" else "the trained head"
    own = task.tail_batch_norm != "support"
    statistics = "their own statistics" if own else "the other examples' statistics"
    return (
        f", from {head}; then {counted(task.tail_shot, 'query', 'queries')} per class, normalized "
        f"by {statistics}, give the outer gradient"
    )


def _outer_loop(outer: Outer) -> str:
    name = "Adam" if outer.optimizer == "adam" else "plain steps"
    said = f"{name}, step size {outer.meta_step_size:g} to {outer.meta_step_size_final:g}"
    if outer.gradient_weights is not None:
        said += f", inner gradients times {', '.join(f'{w:g}' for w in outer.gradient_weights)}"
    return said


def _classes(recipe: Recipe, dataset: ImageDataset) -> str:
    data, count = recipe.data, dataset.class_count
    turned = ""
    if data.rotations:
        count //= len(ROTATIONS_DEGREES)
        turned = f", each turned into {len(ROTATIONS_DEGREES)} by right angles"
    folder = f" in `{data.folder}`" if data.folder else ""
    return (
        f"{counted(count, 'training class', 'training classes')} of `{data.dataset}`{folder}, "
        f"split `{data.split}`{turned}, {counted(dataset.image_count, 'image')} in all"
        f"{_augmentation(recipe)}"
    )


def _augmentation(recipe: Recipe) -> str:
    changes = recipe.augmentation
    if changes is None:
        return ""
    words = ["turned over or not"] if changes.flip else []
    for value, said in (
        (changes.shift, "moved by up to {:.1%} of their sides"),
        (changes.rotation_degrees, "rotated by up to {:g} degrees"),
        (changes.scale, "enlarged or shrunk by up to {:.1%}"),
    ):
        words += [said.format(value)] if value else []
    return f", each {', '.join(words)} at random" if words else ""


def accuracy_section(manifest: Manifest) -> list[str]:
    """Return the lines of the section that has the manifest's table of accuracies."""
    if not manifest.evaluation:
        return ["## Accuracy", "", "Not measured."]
    first = manifest.evaluation[0]
    queries = counted(first.query_count, "query", "queries")
    methods = " or a ".join(dict.fromkeys(row.ci_method for row in manifest.evaluation))
    return [
        "## Accuracy",
        "",
        f"On {first.task_count:,} tasks sampled from test classes that training never saw, "
        f"{queries} per class; ± is the half width of a {methods}.",
        "",
        "| way | shot | inner steps | preconditioner | batch-norm mode | accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_table_row(row) for row in manifest.evaluation),
    ]


def _table_row(row: EvaluationRow) -> str:
    return (
        f"| {row.way} | {row.shot} | {row.step_count} | {row.preconditioner} "
        f"| {row.batch_norm_mode} | {row.accuracy:.2%} ± {row.ci95:.2%} |"
    )


def _commands(manifest: Manifest, recipe: Recipe) -> list[str]:
    words = recipe_words(recipe)
    said = ["## Again", "", "    " + _train_command(words or ["RECIPE.toml"])]
    if manifest.evaluation:
        said.append("    " + evaluate_command(manifest, recipe.evaluation.table.seed, "OUT"))
    said += [
        "",
        "The first line trains again: on an equal CPU, with the versions above, to the same bytes.",
    ]
    if words is None:
        said.append(
            "RECIPE.toml has the settings that `recipe.json` beside the training's checkpoint "
            "lists."
        )
    if manifest.evaluation:
        said.append("The second measures the table's first row again; each row has its own values.")
    return said


def _train_command(words: list[str]) -> str:
    return f"kshot train {shlex.join(words)} --out OUT --data DATA"


def evaluate_command(manifest: Manifest, seed: int, out: str) -> str:
    """Return the command that measures the table's first row again, of the bundle in ``out``."""
    row = manifest.evaluation[0]
    options = {
        "way": row.way,
        "shot": row.shot,
        "queries": row.query_count,
        "tasks": row.task_count,
        "seed": seed,
        "step-count": row.step_count,
        "preconditioner": row.preconditioner,
        "batch-norm-mode": row.batch_norm_mode,
    }
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    return f"kshot evaluate {out}/{manifest.name}/{manifest.version} --data DATA {words}"


def _limits(manifest: Manifest) -> list[str]:
    limits = manifest.limits
    return [
        "## Limits",
        "",
        f"- 2 to {limits.max_way} classes, at most {limits.max_support_count:,} examples and "
        f"{limits.max_query_count:,} queries a request, at most {limits.max_step_count} inner "
        "steps.",
        "- Images unlike the training images adapt worse than the table says: measure on your own.",
        "- `transductive` answers depend on the other queries of the same request; the other two "
        "modes answer each query by itself.",
        calibration_limit(manifest),
    ]


def calibration_limit(manifest: Manifest) -> str:
    """Say whether probabilities are calibrated, and what for."""
    if not manifest.calibrated_modes:
        return UNCALIBRATED
    assert manifest.calibration is not None  # noqa: S101 -- it has modes
    modes = ", ".join(f"`{mode}`" for mode in manifest.calibrated_modes)
    return (
        f"- Probabilities are calibrated in the modes {modes}, for images like those above, "
        f"{manifest.calibration.way} classes and the default options; for others they may be too "
        "sure, or not sure enough."
    )


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Say how many, in the plural where it is not one."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
