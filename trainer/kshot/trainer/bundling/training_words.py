"""What a card says about the training: from the recipe and the data set, not from the manifest."""

import shlex

from kshot.bundle import Manifest
from kshot.trainer.bundling.card import CardWords, counted
from kshot.trainer.datasets.dataset import ROTATIONS_DEGREES, ImageDataset
from kshot.trainer.recipe.differences import recipe_words
from kshot.trainer.recipe.recipe import Inner, Outer, Recipe, Task

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


def training_words(manifest: Manifest, recipe: Recipe, dataset: ImageDataset) -> CardWords:
    """Describe what a bundle was trained on and how, and the command that repeats the training."""
    words = recipe_words(recipe)
    command = f"kshot train {shlex.join(words or ['RECIPE.toml'])} --out OUT --data DATA"
    return CardWords(_introduction(manifest, recipe, dataset), command)


def _introduction(manifest: Manifest, recipe: Recipe, dataset: ImageDataset) -> str:
    provenance = manifest.provenance
    channels, height, width = manifest.input.shape
    arguments = ", ".join(
        f"{key} {value}" for key, value in sorted(manifest.network.arguments.items())
    )
    versions = ", ".join(
        f"{name} {version}" for name, version in provenance.library_versions.items()
    )
    return f"""\
# {manifest.name}, version {manifest.version}

An initialization for few-shot classification of {width}x{height} images with \
{counted(channels, "channel")}, made by kshot.

- Network: `{manifest.network.name}` ({arguments}){_start(recipe)}.
- Training: {ALGORITHMS[recipe.outer.algorithm]}, recipe `{provenance.recipe}`, \
{provenance.meta_iterations:,} meta-iterations of {_tasks(recipe)}, seed {provenance.seed}.
- Inner loop: {_inner_loop(recipe.inner, recipe.task)}.
- Outer loop: {_outer_loop(recipe.outer)}.
- Data: {_classes(recipe, dataset)} (digest of the split `{provenance.split_digest}`, of the \
images `{provenance.data_digest}`).
- Made with: {versions}."""


def _start(recipe: Recipe) -> str:
    """Name the bundle whose weights, and encoder, the training started from."""
    if recipe.start is None:
        return ""
    kept = "" if recipe.encoded_shape is None else " behind its encoder"
    return f", started from bundle `{recipe.start.bundle}` (`{recipe.start.digest}`){kept}"


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
    """Describe a tail that is answered as the server answers queries."""
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
        (changes.stretch, "stretched by up to {:.1%}"),
        (changes.slant, "slanted by up to {:g} of their height"),
        (changes.stroke_pixels, "with light strokes up to {:g} pixels wider on each side"),
        (changes.blur_pixels, "blurred by up to {:g} pixels"),
        (changes.gamma, "with values to a power of up to 1 + {:g} or its inverse"),
        (changes.noise, "with noise of a deviation of up to {:g}"),
    ):
        words += [said.format(value)] if value else []
    return f", each {', '.join(words)} at random" if words else ""
