"""Whether measured rows are of the bundles that ship now, and agree with what their cards say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kshot.bench.reproduction_rows import Target, target_of
from kshot.bench.reproduction_run import Asked, command_for, described
from kshot.bench.row_file import Row
from kshot.bundle import BatchNormMode, Bundle, EvaluationRow

__all__ = ["disagreements", "told_of"]


def disagreements(rows: Sequence[Row], open_builtin: Callable[[str], Bundle]) -> list[str]:
    """Return a sentence for everything that does not fit together; none where all is well.

    Every row has the paper's figure and the gate of its target. Where a bundle ships for the
    target, a measured row has to be of that very bundle, its recipe and its length, by the command
    that measures it, and may differ from that bundle's own table by no more than both intervals
    together. ``open_builtin`` raises ``BundleError`` for a name that is none.
    """
    bundles: dict[str, Bundle] = {}
    sentences: list[str] = []
    for row in rows:
        name = f"{row['row']} in {row['batch_norm']} mode"
        target = target_of(row)
        if target is None:
            sentences.append(f"{name}: no target is named so")
            continue
        said = list(_of_target(row, target))
        if target.builtin is not None and "not_measured" not in row:
            if target.builtin not in bundles:
                bundles[target.builtin] = open_builtin(target.builtin)
            said += _of_bundle(row, target, bundles[target.builtin])
        sentences += [f"{name}: {sentence}" for sentence in said]
    return sentences


def _of_target(row: Row, target: Target) -> Iterator[str]:
    mode = BatchNormMode(str(row["batch_norm"]))
    for key, told in (("paper", target.published), ("gate", target.gates)):
        if row[key] != told.get(mode):
            yield f"{key} is {row[key]}, wanted {told.get(mode)}"


def _of_bundle(row: Row, target: Target, bundle: Bundle) -> Iterator[str]:
    if not row["built_in"]:
        yield f"it is of a bundle that does not ship, wanted that of the built-in {target.builtin}"
        return
    provenance = bundle.manifest.provenance
    asked = Asked(target, bundle, target.builtin, _number(row["tasks"]))
    wanted: dict[str, object] = {
        "meta_iterations_wanted": None,
        **described(asked),
        "algorithm": provenance.algorithm,
        "meta_iterations": provenance.meta_iterations,
        "command": command_for(asked, BatchNormMode(str(row["batch_norm"]))),
    }
    for key, now in wanted.items():
        if row.get(key) != now:
            yield f"{key} is {row.get(key)}, wanted {now}, as bundle {target.builtin} has it"
    for told in told_of(row, bundle):
        apart = abs(told.accuracy - _fraction(row["accuracy"]))
        if apart > told.ci95 + _fraction(row["ci95"]):
            yield (
                f"the accuracy is {row['accuracy']:.4f}, and {told.accuracy:.4f} on the "
                f"card of {row['bundle']}, which is further apart than both intervals"
            )


def told_of(row: Row, bundle: Bundle) -> list[EvaluationRow]:
    """Return what a bundle's own table says of a row's tasks, adapted to as the row's."""
    usual = bundle.manifest.default_batch_size(_number(row["way"]))
    if row["batch_size"] != min(usual, _number(row["way"]) * _number(row["shot"])):
        return []
    return [told for told in bundle.manifest.evaluation if _same_tasks(row, told)]


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
