"""The tables of docs/choosing.md, from the sweeps that were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kshot.bench.choosing_pairs import PAIRS, Pair
from kshot.bench.choosing_rows import Choice, Measured, Sweep, choice_words
from kshot.bench.choosing_run import Document
from kshot.bench.marked_page import table

__all__ = ["page_blocks"]

PICTURES = "../benchmarks/results/choosing"
HEAD = ("changed", "accuracy", "to the defaults", "ECE", "NLL", "ms")
OVERVIEW = ("", "as served", "ECE", "ms", "as good from", "most accurate in that mode")
DEFAULTS = ("bundle", "mode", "preconditioner", "head", "scope", "steps")
AXES = ("batch_norm_mode", "preconditioner", "head", "scope", "step_count")
# What nobody notices in service: half a point of accuracy.
AS_GOOD = -0.005


def page_blocks(documents: Mapping[str, Document]) -> Mapping[str, str]:
    """Return the text of each block: the overview, the defaults, and a table for each pair.

    ``documents`` are by the pair's name, one for each; one that was not measured says why.
    """
    measured = {
        pair: Sweep.of(documents[pair.name])
        for pair in PAIRS
        if "not_measured" not in documents[pair.name]
    }
    blocks = {
        "overview": _overview(measured),
        "defaults": _defaults(measured),
    }
    for pair in PAIRS:
        sweep, document = measured.get(pair), documents[pair.name]
        missing = f"Not measured: {document.get('not_measured')}."
        blocks[pair.name] = missing if sweep is None else _pair(pair, document, sweep)
    return blocks


def _overview(measured: Mapping[Pair, Sweep]) -> str:
    rows = []
    for pair, sweep in measured.items():
        served, best = sweep.as_served(), sweep.best()
        rows.append(
            [
                f"[{pair.name}](#{pair.name}): {pair.title}",
                _accuracy(served),
                f"{served.ece:.3f}",
                f"{served.ms_per_task:.0f}",
                _fewest(sweep),
                f"{choice_words(best.choice, sweep.defaults)}: {_difference(best)}".rstrip(": "),
            ]
        )
    return table(OVERVIEW, rows) if rows else "Nothing is measured yet."


def _defaults(measured: Mapping[Pair, Sweep]) -> str:
    chosen = {pair.bundle: sweep.defaults for pair, sweep in measured.items()}
    rows = [
        [f"`{bundle}`", *(f"`{getattr(choice, axis)}`" for axis in AXES)]
        for bundle, choice in chosen.items()
    ]
    return table(DEFAULTS, rows) if rows else "Nothing is measured yet."


def _pair(pair: Pair, document: Document, sweep: Sweep) -> str:
    served = sweep.as_served()
    said = (
        f"{document['tasks']} tasks of {document['data']}, {document['way']}-way "
        f"{document['shot']}-shot, {document['queries_per_task']} queries each, the same for all "
        f"rows; computed on {_device(document)}, by `{document['command']}`."
    )
    rows = [_row("**the defaults**", served)]
    rows += [_row(words, row) for words, row in _changes(sweep)]
    picture = f"![Error, calibration and milliseconds of {pair.name}]({PICTURES}/{pair.name}.png)"
    return f"{said}\n\n{table(HEAD, rows)}\n\n{picture}"


def _changes(sweep: Sweep) -> Iterator[tuple[str, Measured]]:
    """Go over single changes of the defaults, the baselines, and the most accurate of all."""
    defaults = sweep.defaults
    for axis in AXES:
        for row in sweep.changed(axis):
            yield choice_words(row.choice, defaults), row
    mode = defaults.batch_norm_mode
    prototypes = Choice(mode, defaults.preconditioner, "prototype", defaults.scope, 0)
    if prototypes in sweep.rows and prototypes.head != defaults.head:
        yield "class means, no step", sweep.rows[prototypes]
    for row in sweep.baselines(mode):
        yield "no head, no step: NIL", row
    best = sweep.best()
    yield f"most accurate in that mode: {choice_words(best.choice, defaults)}", best


def _fewest(sweep: Sweep) -> str:
    """Name the number of steps from which on all are less than half a point below the defaults.

    All means up to the defaults' own number: what more steps do is not asked.
    """
    count = served = sweep.defaults.step_count
    for row in reversed(sweep.along_steps(sweep.defaults)):
        if row.choice.step_count < served:
            if row.difference is not None and row.difference[0] <= AS_GOOD:
                break
            count = row.choice.step_count
    return f"{count} step{'' if count == 1 else 's'}"


def _row(words: str, row: Measured) -> Sequence[str]:
    return (
        words,
        _accuracy(row),
        _difference(row),
        f"{row.ece:.3f}",
        f"{row.nll:.3f}",
        f"{row.ms_per_task:.1f}",
    )


def _accuracy(row: Measured) -> str:
    return f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f} %"


def _difference(row: Measured) -> str:
    if row.difference is None:
        return ""
    mean, half_width = row.difference
    points = round(100 * mean, 2) + 0.0  # no -0.00
    return f"{points:+.2f} ± {100 * half_width:.2f}"


def _device(document: Document) -> str:
    environment = document["environment"]
    assert isinstance(environment, Mapping)  # noqa: S101 -- our own document
    if document["device"] == environment["gpu"]:
        return str(document["device"])
    return f"one thread of {document['device']}"
