"""Whether measured rows are of the bundles that ship now, and agree with what their cards say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kshot.bench.reproduction_rows import Row
from kshot.bundle import BatchNormMode, Bundle, EvaluationRow

__all__ = ["disagreements"]


def disagreements(rows: Sequence[Row], open_builtin: Callable[[str], Bundle]) -> list[str]:
    """Return a sentence for everything that does not fit together; none where all is well.

    A row of a built-in bundle has to name the very bundle, its recipe and its length, and may
    differ from that bundle's own table by no more than both intervals together. ``open_builtin``
    raises ``BundleError`` for a name that is none.
    """
    names = {str(row["bundle"]) for row in rows if row.get("built_in")}
    bundles = {name: open_builtin(name) for name in names}
    return [
        sentence
        for row in rows
        if row.get("built_in")
        for sentence in _about(row, bundles[str(row["bundle"])])
    ]


def _about(row: Row, bundle: Bundle) -> Iterator[str]:
    provenance = bundle.manifest.provenance
    name = f"{row['row']} in {row['batch_norm']} mode"
    for key, now in (
        ("bundle_digest", bundle.digest),
        ("recipe", provenance.recipe),
        ("recipe_digest", provenance.recipe_digest),
        ("algorithm", provenance.algorithm),
        ("meta_iterations", provenance.meta_iterations),
        ("training_seed", provenance.seed),
    ):
        if row[key] != now:
            yield f"{name}: {key} is {row[key]}, wanted {now}, as bundle {row['bundle']} has it"
    usual = bundle.manifest.default_batch_size(_number(row["way"]))
    for told in bundle.manifest.evaluation if row["batch_size"] == usual else ():
        apart = abs(told.accuracy - _fraction(row["accuracy"]))
        if _same_tasks(row, told) and apart > told.ci95 + _fraction(row["ci95"]):
            yield (
                f"{name}: the accuracy is {row['accuracy']:.4f}, and {told.accuracy:.4f} on the "
                f"card of {row['bundle']}, which is further apart than both intervals"
            )


def _same_tasks(row: Row, told: EvaluationRow) -> bool:
    """Tell whether the card's row is of the same kind of tasks, adapted in the same way.

    How many queries a task has decides nothing, unless they are normalized together.
    """
    together = told.batch_norm_mode is BatchNormMode.TRANSDUCTIVE
    if together and row["queries"] != told.query_count:
        return False
    mine = (row["way"], row["shot"], row["step_count"], row["batch_norm"], row["preconditioner"])
    return mine == (
        told.way,
        told.shot,
        told.step_count,
        told.batch_norm_mode.value,
        told.preconditioner.value,
    )


def _number(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 -- a row that was measured has numbers
    return value


def _fraction(value: object) -> float:
    assert isinstance(value, float | int)  # noqa: S101 -- the same
    return float(value)
