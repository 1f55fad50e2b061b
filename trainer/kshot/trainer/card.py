"""The model card of a bundle, in Markdown."""

from kshot.bundle import EvaluationRow, Manifest
from kshot.trainer.datasets import data_of


def model_card(manifest: Manifest) -> str:
    """Describe a bundle: what it learned from, how well it adapts, where its limits are.

    Raises ``DataError`` when its split is of no known data set.
    """
    return "\n".join([*_origin(manifest), "", *_table(manifest), "", *_limits(manifest), ""])


def _origin(manifest: Manifest) -> list[str]:
    provenance, training = manifest.provenance, manifest.training
    data = data_of(provenance)
    channels, height, width = manifest.input.shape
    arguments = ", ".join(f"{key} {value}" for key, value in manifest.network.arguments.items())
    return [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"An initialization for few-shot classification of {width}x{height} images with "
        f"{channels} channel{'s' if channels > 1 else ''}, made by kshot.",
        "",
        f"- Network: `{manifest.network.name}` ({arguments}).",
        f"- Training: {provenance.algorithm}, recipe `{provenance.recipe}`, "
        f"{provenance.meta_iterations:,} meta-iterations of {training.way}-way tasks with "
        f"{training.shot} examples per class, seed {provenance.seed}.",
        f"- Data: training classes of `{data.dataset}`, split `{data.split}` (digest of the split "
        f"`{provenance.split_digest}`, of the images `{provenance.data_digest}`).",
        "- Made with: "
        + ", ".join(f"{name} {version}" for name, version in provenance.library_versions.items())
        + ".",
    ]


def _table(manifest: Manifest) -> list[str]:
    if not manifest.evaluation:
        return ["## Accuracy", "", "Not measured."]
    first = manifest.evaluation[0]
    methods = " or a ".join(dict.fromkeys(row.ci_method for row in manifest.evaluation))
    return [
        "## Accuracy",
        "",
        f"On {first.task_count:,} tasks sampled from test classes that training never saw, "
        f"{first.query_count} query per class; ± is the half width of a {methods}. "
        "`kshot evaluate` with the values of a row repeats it.",
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
        "- Probabilities are not calibrated.",
    ]
