"""All tables of the study: `studies/results/pictures/tables.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median

from studies.common.page import table
from studies.common.results import Result, Row
from studies.pictures.contenders import Kind, read_contenders
from studies.pictures.gathered import Named
from studies.pictures.insights import ESTIMATE, UNKNOWN
from studies.pictures.measure import KEPT, SetRow, read_set_rows
from studies.pictures.tail.page import tail_table
from studies.pictures.tail.result import TAILS
from studies.pictures.times import TIMES

NOTHING, NONE = "Not measured yet.", "-"
REAL, AUTO = "pictures", "auto"
AHEAD_HEAD = ("", "examples", "best rival")
ESTIMATE_HEAD = (
    *("", "examples", "estimate, %", "accuracy, %", "difference, points"),
    *("inside, %", "inside, all other pictures, %", "width, points"),
)
UNKNOWN_HEAD = (
    *("", "examples", "known score", "maximum probability", "difference"),
    *("false alarms, %", "unknown refused, %"),
)
REDUCED = "-reduced"
TITLE = (
    "# Pictures that people have: all tables\n"
    "\n"
    "Written by `python studies/pictures/study.py --page`; "
    "[docs/pictures.md](../../../docs/pictures.md) says what was measured. Accuracies in %, "
    "with 95 % intervals over tasks; the best of a line is bold.\n"
    "\n"
    "Rivals see 28x28 pixels (nearest neighbour on gray; logistic regression, LR, on RGB), HOG, or "
    "a colour histogram. Frozen is LR on the last layers of the networks of `photos` (features of "
    "length 1, C = 100)."
)
AHEAD = (
    "Paired differences in points to the most accurate rival of each line; bold where larger "
    "than the interval."
)
TIMED = (
    "Medians over the sets: Adapt, and Predict of one picture, through the RPC. Rivals "
    "include their features."
)
ESTIMATED = (
    "`photos`: the estimate of `Adapt`, from left-out examples, beside the accuracy on the 75"
    " queries; how often that lies in the stated 90 % interval, and how often the accuracy on"
    " all other pictures of the classes does, which varies less by itself."
)
STRANGE = (
    "`photos`: 75 queries of the five classes and 75 of others (60 where there is one other). "
    "Areas under the ROC curve by known score and by maximum probability, means over tasks; the "
    "shares of both that a threshold of 0.1 refuses."
)
DRAWN = (
    "scikit-learn's digits as they are; letters A to Z in families of fonts, none of them in "
    "both the support set and the queries."
)
CANVASES = (
    'Test characters of Omniglot, drawn again on canvases; "reduced" ones are reduced by area'
    " to 28 pixels before they are sent."
)
ADAPTED = (
    "The tail of `photos` adapts behind the head: so many steps on all examples, and in each of "
    "three folds where these decide its weight. Paired differences to the head alone, on the "
    "first tasks of each set; the interval of the mean takes the i-th tasks of all sets as one. "
    "Left out: by likeness and slope that the other sets choose. Seconds are the processor's, for "
    "crops and steps."
)
CHOSEN = "How often the server chose which model where none was named."


def result_names() -> Sequence[str]:
    """Return the names of all results, in the order of the rows."""
    return [name for row in read_set_rows().values() for name, _ in named(row)]


def all_tables(results: Mapping[str, Result], tables: Mapping[str, Named]) -> str:
    """Return the whole page, from the results of trials and the gathered rows."""
    real, more = read_set_rows(table=REAL), read_set_rows(table="more")
    shots = next(iter(real.values())).shots
    sets = [*real.values(), *more.values()]
    drawn = read_set_rows(table="drawings").values()
    sections = [
        ("Means over the eight sets", "", _means(results)),
        *((f"Accuracy, {examples(shot)}", "", _accuracies(sets, shot, results)) for shot in shots),
        ("Against the best rival", AHEAD, _ahead([*sets, *drawn], results)),
        ("Model left out", CHOSEN, _chosen([*sets, *drawn], results)),
        ("With more time", ADAPTED, tail_table(tables[TAILS]) if tables.get(TAILS) else NOTHING),
        ("Milliseconds on one core", TIMED, _times(real.values(), tables.get(TIMES, {}))),
        ("Estimates", ESTIMATED, _estimates(tables.get(ESTIMATE, {}))),
        ("Unknown classes", STRANGE, _unknown(tables.get(UNKNOWN, {}))),
        ("Drawings", DRAWN, _drawings(drawn, results)),
        ("Canvases", CANVASES, _canvases(read_set_rows(table="canvases").values(), results)),
    ]
    texts = ["\n\n".join(filter(None, (f"## {head}", *rest))) for head, *rest in sections]
    return "\n\n".join([TITLE, *texts]) + "\n"


def _means(results: Mapping[str, Result]) -> str:
    """Lay out means over the real sets, a line for each contender; `-` where one is missing."""
    rows = list(read_set_rows(table=REAL).values())
    shots = rows[0].shots
    by_shot = {
        shot: [
            found for row in rows if (found := by_contender(results.get(f"{row.name}-{shot}shot")))
        ]
        for shot in shots
    }
    lines = []
    for name, contender in read_contenders().items():
        cells = [
            mean_cell([of.get(name) for of in by_shot[shot]]) if by_shot[shot] else NONE
            for shot in shots
        ]
        if set(cells) != {NONE}:
            lines.append([contender.title, *cells])
    if not lines:
        return NOTHING
    heads = (f"{examples(shot)} ({len(by_shot[shot])} sets)" for shot in shots)
    return table(["", *heads], lines)


def _chosen(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    found = {
        f"{row.title}, {examples(shot)}": results[name].more[KEPT][AUTO]["chosen"]
        for row in rows
        for name, shot in named(row)
        if name in results and AUTO in results[name].more[KEPT]
    }
    models = sorted({model for of in found.values() for model in of})
    if not models:
        return NOTHING
    lines = [[title, *(str(of.get(model, 0)) for model in models)] for title, of in found.items()]
    return table(["", *(f"`{model}`" for model in models)], lines)


def _accuracies(rows: Sequence[SetRow], shot: int, results: Mapping[str, Result]) -> str:
    """Lay out accuracies, a line for each set, a column for each contender, the best in bold.

    The mean is over the sets of the first table.
    """
    found = {row: by_contender(results.get(f"{row.name}-{shot}shot")) for row in rows}
    found = {row: of for row, of in found.items() if of}
    if not found:
        return NOTHING
    titles = competing(found.values())
    lines = [[row.title, *_marked_best(of, titles)] for row, of in found.items()]
    if real := [of for row, of in found.items() if row.name in read_set_rows(table=REAL)]:
        means = [mean_cell([of.get(name) for of in real]) for name in titles]
        lines.append([f"mean of {len(real)} sets", *means])
    return table(["", *titles.values()], lines)


def _ahead(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    """Lay out each bundle's paired difference to the best rival, for each set and shot."""
    found = [
        (row.title, shot, of)
        for row in rows
        for name, shot in named(row)
        if _rival(of := by_contender(results.get(name)))
    ]
    if not found:
        return NOTHING
    served = {
        name: title
        for name, title in competing(of for *_, of in found).items()
        if read_contenders()[name].kind == Kind.SERVED
    }
    lines = []
    for title, shot, of in found:
        cells = [_points(of[name]) if name in of else NONE for name in served]
        lines.append([title, str(shot), read_contenders()[_rival(of)].title, *cells])
    return table([*AHEAD_HEAD, *served.values()], lines)


def _rival(of: Mapping[str, Row]) -> str:
    """Return the rival that bundles were compared with, empty where none was."""
    return next((str(row["rival"]) for row in of.values() if row["rival"]), "")


def _times(rows: Iterable[SetRow], times: Named) -> str:
    """Lay out the median over sets of milliseconds, by contender and number of examples."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        for name, shot in named(row):
            for (trial, contender), one in times.items():
                if trial == name:
                    found.setdefault(contender, {}).setdefault(shot, []).append(one)
    if not found:
        return NOTHING
    shots = sorted({shot for of in found.values() for shot in of})
    lines = []
    for name, of in read_contenders().items():
        if name in found:
            adapting = [_median(found[name].get(shot, ()), "adapt_ms", 0) for shot in shots]
            asked = [row for rows_of_shot in found[name].values() for row in rows_of_shot]
            lines.append([of.title, *adapting, _median(asked, "predict_ms", 1)])
    return table(["", *(f"Adapt, {examples(shot)}" for shot in shots), "Predict"], lines)


def _median(rows: Sequence[Row], column: str, digits: int) -> str:
    return f"{median(row[column] for row in rows):.{digits}f}" if rows else NONE


def _estimates(found: Named) -> str:
    """Lay out estimates beside the accuracy on new queries."""
    lines = [
        [
            *_of_trial(trial),
            f"{100 * row['estimate']:.1f}",
            f"{100 * row['accuracy']:.1f}",
            f"{100 * row['difference']:+.1f} ± {100 * row['ci95']:.1f}",
            f"{100 * row['inside']:.0f}",
            f"{100 * row['inside_of_all_others']:.0f}",
            f"{100 * row['width']:.0f}",
        ]
        for (trial, _), row in found.items()
    ]
    return table(ESTIMATE_HEAD, lines) if lines else NOTHING


def _unknown(found: Named) -> str:
    """Lay out how well queries of other classes are told from the known ones."""
    lines = [
        [
            *_of_trial(trial),
            f"{row['known_score']:.3f} ± {row['ci95']:.3f}",
            f"{row['probability']:.3f}",
            f"{row['ahead']:+.3f} ± {row['ahead_ci95']:.3f}",
            f"{100 * row['false_alarms']:.1f}",
            f"{100 * row['refused']:.1f}",
        ]
        for (trial, _), row in found.items()
    ]
    return table(UNKNOWN_HEAD, lines) if lines else NOTHING


def _of_trial(trial: str) -> tuple[str, str]:
    """Return the title of a trial's set, and its examples per class."""
    name, _, shot = trial.removesuffix("shot").rpartition("-")
    return read_set_rows()[name].title, shot


def _drawings(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    found = {
        f"{row.title}, {examples(shot)}": of
        for row in rows
        for name, shot in named(row)
        if (of := by_contender(results.get(name)))
    }
    if not found:
        return NOTHING
    titles = competing(found.values())
    lines = [[title, *_marked_best(of, titles)] for title, of in found.items()]
    return table(["", *titles.values()], lines)


def _canvases(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    """Lay out accuracies as sent and reduced by area, and their ratio."""
    found = {row.title: by_contender(results.get(named(row)[0][0])) for row in rows}
    found = {title: of for title, of in found.items() if of}
    if not found:
        return NOTHING
    titles = competing(found.values())
    pairs = [name for name in titles if name + REDUCED in titles]
    shares = [[_share(of, name) for name in pairs] for of in found.values()]
    lines = [
        [title, *_marked_best(of, titles), *cells]
        for (title, of), cells in zip(found.items(), shares, strict=True)
    ]
    return table(
        ["", *titles.values(), *(f"{titles[name]}: as sent / reduced" for name in pairs)], lines
    )


def _share(of: Mapping[str, Row], name: str) -> str:
    if name not in of or name + REDUCED not in of:
        return NONE
    return f"{100 * of[name]['accuracy'] / of[name + REDUCED]['accuracy']:.0f} %"


def named(row: SetRow) -> Sequence[tuple[str, int]]:
    """Return the results of a row, with their examples per class."""
    return [(f"{row.name}-{shot}shot", shot) for shot in row.shots]


def by_contender(result: Result | None) -> Mapping[str, Row]:
    """Return the rows of a result by contender; none where it was not measured."""
    return {} if result is None else {row["contender"]: row for row in result.rows}


def competing(found: Iterable[Mapping[str, Row]]) -> Mapping[str, str]:
    """Return the titles of those who competed, in the file's order."""
    names = {name for of in found for name in of}
    return {name: of.title for name, of in read_contenders().items() if name in names}


def _marked_best(of: Mapping[str, Row], names: Iterable[str]) -> list[str]:
    best = max(row["accuracy"] for row in of.values())
    cells = []
    for name in names:
        said = (
            f"{100 * of[name]['accuracy']:.1f} ± {100 * of[name]['ci95']:.1f}"
            if name in of
            else NONE
        )
        cells.append(f"**{said}**" if name in of and of[name]["accuracy"] == best else said)
    return cells


def mean_cell(rows: Sequence[Row | None]) -> str:
    """Average sets; their tasks are independent, so the squares of the half widths add up."""
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return NONE
    half_width = sum(row["ci95"] ** 2 for row in known) ** 0.5 / len(known)
    return f"{100 * mean(row['accuracy'] for row in known):.1f} ± {100 * half_width:.1f}"


def _points(row: Row) -> str:
    said = f"{100 * row['ahead']:+.1f} ± {100 * row['ahead_ci95']:.1f}"
    return f"**{said}**" if abs(row["ahead"]) > row["ahead_ci95"] else said


def examples(shot: int) -> str:
    """Say a number of examples."""
    return "1 example" if shot == 1 else f"{shot} examples"
