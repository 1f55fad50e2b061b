"""The manifest of the bundle that a recipe's training writes."""

from collections.abc import Mapping

from kshot.bundle.manifest import EncoderSpec, InnerLoop, Manifest, Provenance, Training
from kshot.trainer.recipe.recipe import Recipe, recipe_digest

BUNDLE_VERSION = 1


def manifest_of(
    recipe: Recipe, data_digest: str, split_digest: str, library_versions: Mapping[str, str]
) -> Manifest:
    """Return all of the manifest that is known before training: no accuracies and no files."""
    serving, inner, outer = recipe.serving, recipe.inner, recipe.outer
    shuffled = recipe.task.labels == "shuffled"
    return Manifest(
        name=serving.name,
        version=BUNDLE_VERSION,
        network=recipe.network,
        input=recipe.input,
        encoder=None if recipe.encoded_shape is None else EncoderSpec(recipe.encoded_shape),
        inner_loop=InnerLoop(
            optimizer="sgd" if inner.preconditioner == "sgd" else "adam",
            learning_rate=inner.learning_rate,
            step_count=serving.step_count,
            preconditioner=serving.preconditioner,
            preconditioners=serving.preconditioners,
            second_moment_decay=inner.second_moment_decay,
            epsilon=inner.epsilon,
            weight_decay_rate=None if inner.weight_decay_rate == 1 else inner.weight_decay_rate,
            batch_size_by_way=serving.batch_size_by_way,
            batch_sizes=serving.batch_sizes,
            way_buckets=serving.way_buckets,
            step_count_by_shot=serving.step_count_by_shot,
        ),
        batch_norm=recipe.batch_norm,
        training=Training(recipe.task.way if shuffled else recipe.evaluation.way, recipe.task.shot),
        head=serving.head,
        scope=serving.scope,
        limits=serving.limits,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_digest=recipe_digest(recipe),
            algorithm=outer.algorithm,
            seed=outer.seed,
            meta_iterations=outer.meta_iterations,
            data_digest=data_digest,
            split_digest=split_digest,
            library_versions=library_versions,
            dataset=recipe.data.dataset,
            split=recipe.data.split,
            folder=recipe.data.folder,
        ),
    )
